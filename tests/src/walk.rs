//! A random walk through the objects of the article, and the model of what it has declared.
//!
//! Invariant: after a step that was acknowledged the cluster shows its outcome; after one that was
//! not, either the outcome or what was before. The step is then repeated until it is acknowledged.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{Cluster, http, random::Random};

/// As many slaves as a walk asks for at most.
const SLAVES_MAX: usize = 3;

/// What is there of the article's objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Objects {
    /// The pod `jenkins`.
    pub pod: bool,
    /// The service `jenkins`.
    pub http: bool,
    /// The service `jenkins-slave`.
    pub slave: bool,
    /// What the replication controller `jenkins-slave` asks for, if it is there.
    pub replicas: Option<usize>,
}

/// One command of the walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Makes the pod.
    CreatePod,
    /// Takes it away.
    DeletePod,
    /// Makes the service in front of the pod's pages.
    CreateHttp,
    /// Takes it away.
    DeleteHttp,
    /// Makes the service that slaves connect to.
    CreateSlave,
    /// Takes it away.
    DeleteSlave,
    /// Makes the controller, for one slave.
    CreateController,
    /// Asks for so many slaves; 0 is `stop`.
    Resize(usize),
    /// Takes the controller away.
    Remove,
}

use Step::*;

impl Step {
    /// The arguments for kubecfg.
    pub fn args(self, cluster: &Cluster) -> Result<Vec<String>> {
        let create = |file, kind: &str| ["-c".into(), file, "create".into(), kind.into()].to_vec();
        let example = |file: &str| Cluster::example(&format!("jenkins/{file}"));
        let words = |line: &str| line.split(' ').map(str::to_owned).collect();
        Ok(match self {
            CreatePod => create(cluster.jenkins_without_host_ports()?, "pods"),
            DeletePod => words("delete pods/jenkins"),
            CreateHttp => create(example("service-http.json"), "services"),
            DeleteHttp => words("delete services/jenkins"),
            CreateSlave => create(example("service-slave.json"), "services"),
            DeleteSlave => words("delete services/jenkins-slave"),
            CreateController => create(example("replication.json"), "replicationControllers"),
            Resize(0) => words("stop jenkins-slave"),
            Resize(n) => words(&format!("resize jenkins-slave {n}")),
            Remove => words("rm jenkins-slave"),
        })
    }

    /// Whether this refusal says that the step was done before.
    fn is_done(self, refusal: &str) -> bool {
        match self {
            CreatePod | CreateHttp | CreateSlave | CreateController => refusal.contains("already exists"),
            DeletePod | DeleteHttp | DeleteSlave | Remove => refusal.contains("not found"),
            Resize(_) => false,
        }
    }
}

impl Objects {
    /// What the master shows.
    pub fn shown(cluster: &Cluster) -> Result<Self> {
        let list = |kind: &str| -> Result<Vec<Value>> {
            let path = format!("/api/v1/namespaces/default/{kind}");
            let text = http::get(cluster.address, &path).with_context(|| format!("no answer to GET {path}"))?;
            let list: Value = serde_json::from_str(&text)?;
            Ok(list["items"].as_array().with_context(|| format!("no items in {text}"))?.clone())
        };
        let named = |items: &[Value], name: &str| items.iter().find(|o| o["metadata"]["name"] == name).cloned();
        let services = list("services")?;
        let controller = named(&list("replicationcontrollers")?, "jenkins-slave");
        Ok(Self {
            pod: named(&list("pods")?, "jenkins").is_some(),
            http: named(&services, "jenkins").is_some(),
            slave: named(&services, "jenkins-slave").is_some(),
            replicas: controller
                .map(|rc| rc["spec"]["replicas"].as_u64().context("a controller without replicas"))
                .transpose()?
                .map(usize::try_from)
                .transpose()?,
        })
    }

    fn after(self, step: Step) -> Self {
        match step {
            CreatePod => Self { pod: true, ..self },
            DeletePod => Self { pod: false, ..self },
            CreateHttp => Self { http: true, ..self },
            DeleteHttp => Self { http: false, ..self },
            CreateSlave => Self { slave: true, ..self },
            DeleteSlave => Self { slave: false, ..self },
            CreateController => Self { replicas: Some(1), ..self },
            Resize(n) => Self { replicas: Some(n), ..self },
            Remove => Self { replicas: None, ..self },
        }
    }

    /// A step that makes a difference. Slaves need both services for as long as they are there.
    fn draw(self, random: &mut Random) -> Step {
        let mut steps = vec![if self.pod { DeletePod } else { CreatePod }];
        match self.replicas {
            None => {
                steps.push(if self.http { DeleteHttp } else { CreateHttp });
                steps.push(if self.slave { DeleteSlave } else { CreateSlave });
                if self.http && self.slave {
                    // More often than not: most of the walk is about slaves.
                    steps.extend([CreateController; 6]);
                }
            }
            Some(now) => {
                steps.extend((0..=SLAVES_MAX).filter(|n| *n != now).map(Resize));
                if now == 0 {
                    steps.push(Remove);
                }
            }
        }
        steps[random.below(steps.len())]
    }
}

/// The walk so far.
#[derive(Debug, Default)]
pub struct Walk {
    declared: Objects,
    unsure: Option<Step>,
    /// How often a step was acknowledged.
    pub acknowledged: usize,
    /// How often a step was cut off.
    pub cut_off: usize,
}

/// How kubecfg says that a request went unanswered, or that it could not be sent.
const CUT_OFF: [&str; 3] = ["cannot reach the master", "talking to the master", "did not answer"];

impl Walk {
    /// The next step: the last one again, if it was not acknowledged.
    pub fn step(&self, random: &mut Random) -> Step {
        self.unsure.unwrap_or_else(|| self.declared.draw(random))
    }

    /// Takes in how kubecfg ended with a step. `refusal` is what it said on standard error.
    pub fn ended(&mut self, step: Step, success: bool, refusal: &str) -> Result<()> {
        let repeated = self.unsure == Some(step);
        if success || (repeated && step.is_done(refusal)) {
            self.acknowledged += 1;
            self.declared = self.declared.after(step);
            self.unsure = None;
        } else if CUT_OFF.iter().any(|words| refusal.contains(words)) {
            self.cut_off += 1;
            self.unsure = Some(step);
        } else {
            bail!("{step:?} was refused: {refusal}");
        }
        Ok(())
    }

    /// Compares with what the master shows. What was shown once was durable and has to stay.
    pub fn check(&mut self, shown: Objects) -> Result<Objects> {
        let outcome = self.unsure.map(|step| self.declared.after(step));
        ensure!(
            shown == self.declared || Some(shown) == outcome,
            "declared is {:?}, unsure is {:?}, but there is {shown:?}",
            self.declared,
            self.unsure
        );
        self.declared = shown;
        Ok(shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOST: &str = "F1126 kubecfg.go:1] Got request error: talking to the master about /x: connection closed";

    fn walk(declared: Objects) -> Walk {
        Walk { declared, ..Walk::default() }
    }

    #[test]
    fn what_was_acknowledged_has_to_be_shown() {
        let mut walk = walk(Objects::default());
        walk.ended(CreatePod, true, "").unwrap();
        assert!(walk.check(Objects::default()).is_err(), "a lost pod");
        let pod = Objects { pod: true, ..Objects::default() };
        walk.check(pod).unwrap();
        walk.ended(DeletePod, true, "").unwrap();
        assert!(walk.check(pod).is_err(), "a pod that came back");
        assert!(walk.check(Objects { http: true, ..Objects::default() }).is_err(), "an object that nobody made");
    }

    #[test]
    fn what_was_cut_off_may_be_done_or_not_and_is_repeated() {
        let (one, two) = ([Some(1), Some(2)]).map(|replicas| Objects { replicas, ..Objects::default() }).into();
        let mut walk = walk(one);
        walk.ended(Resize(2), false, LOST).unwrap();
        walk.check(one).unwrap();
        walk.check(two).unwrap();
        assert!(walk.check(one).is_err(), "what was shown once stays");
        let mut random = Random::new().unwrap();
        assert_eq!(walk.step(&mut random), Resize(2));
        walk.ended(Resize(2), true, "").unwrap();
        assert_ne!(walk.step(&mut random), Resize(2));
    }

    #[test]
    fn only_a_repeated_step_may_find_itself_done() {
        let exists = "Got request error: pod \"jenkins\" already exists";
        let mut walk = walk(Objects::default());
        assert!(walk.ended(CreatePod, false, exists).is_err());
        walk.ended(CreatePod, false, LOST).unwrap();
        walk.ended(CreatePod, false, exists).unwrap();
        assert!(walk.check(Objects::default()).is_err());
        assert!(walk.ended(DeletePod, false, "Got request error: the body is not valid").is_err(), "a refusal");
    }
}
