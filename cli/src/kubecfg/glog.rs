//! Messages in glog's form: `F1123 05:38:03.123456   12345 kubecfg.go:78] text`.

use jiff::Zoned;

/// Where 0.5.4's binary says its messages come from.
const SOURCE: &str = "kubecfg.go";
const FATAL_LINE: u32 = 98;
const INFO_LINE: u32 = 288;

/// The line of a fatal error, without line break.
pub(crate) fn fatal_line(text: &str, now: &Zoned, pid: u32) -> String {
    line('F', FATAL_LINE, text, now, pid)
}

/// Tells on stderr what is going on.
pub(crate) fn info(text: &str) {
    crate::output::note(&line('I', INFO_LINE, text, &Zoned::now(), std::process::id()));
}

fn line(level: char, source_line: u32, text: &str, now: &Zoned, pid: u32) -> String {
    let time = now.strftime("%m%d %H:%M:%S%.6f");
    format!("{level}{time} {pid:>7} {SOURCE}:{source_line}] {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fatal_line_has_the_form_of_glog() {
        let now = "2026-11-23T05:38:03.012345678Z".parse::<jiff::Timestamp>().unwrap();
        let now = now.to_zoned(jiff::tz::TimeZone::UTC);
        assert_eq!(
            fatal_line("Unknown command bogus", &now, 4711),
            "F1123 05:38:03.012345    4711 kubecfg.go:98] Unknown command bogus"
        );
    }
}
