//! How many files and sockets this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit as far as it may be, and returns it; `None` where there is none.
pub fn raise_limit() -> Option<usize> {
    let had = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: had.maximum, maximum: had.maximum };
    let is_raised = had.current == had.maximum || setrlimit(Resource::Nofile, raised).is_ok();
    let limit = if is_raised { had.maximum } else { had.current };
    limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_is_had() {
        let limit = raise_limit();
        let has = getrlimit(Resource::Nofile);
        assert_eq!(has.current.map(|n| n as usize), limit);
        assert_eq!(raise_limit(), limit);
    }
}
