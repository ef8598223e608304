//! What the embedded store must bear: everything that a disk and a power supply may do.

mod damage;
mod files;
mod model;
mod shell;
mod sim;
mod space;
