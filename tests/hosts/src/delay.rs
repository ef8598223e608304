//! A link that takes its time.
//!
//! The kernel's own means for this, `netem`, is often not built in. So frames take a way through
//! this process: the host's port moves to a bridge of its own, and a TAP device at either bridge
//! hands over what comes, when its time has come. All protocols are delayed alike, and their order
//! stays.
//!
//! Limits: it ends with this process, so a lab that was kept has no delay. What passes costs this
//! process time, some 20 us a frame; a direction holds [`FRAMES_MAX`] frames, more than that are
//! lost. Interrupting a host's link by [`crate::Host::cut`] does not take back what is on its way.

use std::{
    fs::File,
    os::fd::AsFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use crate::switch::Switch;

/// What may be on its way in one direction: a second of 100 Mbit/s.
pub const FRAMES_MAX: usize = 8192;
/// An Ethernet frame, with room for tags.
const FRAME_BYTES_MAX: usize = 1600;
/// How long ending takes at most.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

type Frame = (Instant, Vec<u8>);

/// A delayed link. Dropping it makes it a plain one again.
#[derive(Debug)]
pub(crate) struct Delay {
    switch: Switch,
    name: String,
    host: u8,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Delay {
    /// Delays every frame from and to a host.
    pub(crate) fn start(switch: &Switch, name: &str, host: u8, time: Duration) -> Result<Self> {
        let ends = [format!("{name}-host"), format!("{name}-net")];
        let devices = open(&switch.netns(), &ends)?;
        let mut delay =
            Self { switch: switch.clone(), name: name.to_owned(), host, over: Arc::default(), threads: Vec::new() };
        let bridge = delay.bridge();
        switch.ip(&["link", "add", "name", &bridge, "type", "bridge"])?;
        switch.ip(&["link", "set", "dev", &bridge, "up"])?;
        switch.ip(&["link", "set", "dev", &ends[0], "master", &bridge, "up"])?;
        switch.join(&ends[1], host)?;
        switch.ip(&["link", "set", "dev", name, "master", &bridge])?;
        let [a, b] = devices.map(Arc::new);
        for (from, to) in [(a.clone(), b.clone()), (b, a)] {
            let (sender, receiver) = sync_channel(FRAMES_MAX);
            let over = delay.over.clone();
            delay.threads.push(thread::spawn(move || take(&from, time, &sender, &over)));
            delay.threads.push(thread::spawn(move || hand_over(&to, &receiver)));
        }
        Ok(delay)
    }

    fn bridge(&self) -> String {
        format!("{}-slow", self.name)
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // The host may be gone, and its port with it.
        drop(self.switch.rejoin(&self.name, self.host));
        drop(self.switch.ip(&["link", "del", "dev", &self.bridge()]));
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

/// Makes TAP devices in a namespace. They go when they are closed.
fn open(netns: &str, names: &[String; 2]) -> Result<[SyncDevice; 2]> {
    let namespace = File::open(Path::new("/run/netns").join(netns))?;
    let names = names.clone();
    // A thread of its own: there is no way back from a namespace.
    let opening = thread::spawn(move || -> Result<[SyncDevice; 2]> {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        let [a, b] = names.map(|name| {
            let device = DeviceBuilder::new().name(&name).layer(Layer::L2).build_sync();
            device.with_context(|| format!("making the TAP device {name}"))
        });
        Ok([a?, b?])
    });
    opening.join().map_err(|_| anyhow!("a panic"))?
}

fn take(from: &SyncDevice, time: Duration, to: &SyncSender<Frame>, over: &AtomicBool) {
    let mut buffer = [0; FRAME_BYTES_MAX];
    while !over.load(Ordering::Relaxed) {
        let mut waiting = [PollFd::new(from, PollFlags::IN)];
        if poll(&mut waiting, Some(&LOOK)).is_ok_and(|ready| ready == 0) {
            continue;
        }
        let Ok(length) = from.recv(&mut buffer) else { return };
        // What finds no room is lost, as on any link that is full.
        drop(to.try_send((Instant::now() + time, buffer[..length].to_vec())));
    }
}

fn hand_over(to: &SyncDevice, from: &Receiver<Frame>) {
    while let Ok((due, frame)) = from.recv() {
        #[expect(clippy::disallowed_methods, reason = "passing time is all that this is for")]
        thread::sleep(due.saturating_duration_since(Instant::now()));
        // A device that is not up takes nothing.
        drop(to.send(&frame));
    }
}
