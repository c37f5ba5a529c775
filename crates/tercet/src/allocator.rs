//! What the system's allocator keeps at hand.
//!
//! A node takes and frees memory in bursts: a batch of requests comes, waits for one sync, and is
//! answered. glibc keeps seven freed pieces of each size for a thread and puts every other one back
//! into a heap that all threads share, which costs a busy node a tenth of its time. It reads how many
//! to keep from its environment, and only before a program begins; so the program begins once more.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

const VARIABLE: &str = "GLIBC_TUNABLES";
const TUNABLE: &str = "glibc.malloc.tcache_count";
/// The requests of some batches; at most some megabytes of small pieces.
const KEPT: u32 = 1000;

/// Begins this program again, as the same process and with the same arguments, if the allocator is to
/// be told something. Nothing may be open and no thread may run yet. Whoever sets the tunable is right.
///
/// Elsewhere than with glibc it does nothing, and a system that cannot do it is served all the same.
pub(crate) fn tune() {
    let is_glibc = cfg!(all(target_os = "linux", target_env = "gnu"));
    let mut arguments = std::env::args_os();
    if is_glibc
        && let Some(tunables) = tunables(std::env::var_os(VARIABLE).as_deref())
        && let (Ok(program), Some(name)) = (std::env::current_exe(), arguments.next())
    {
        let mut again = Command::new(program);
        again.arg0(name).args(arguments).env(VARIABLE, tunables);
        // It comes back only with an error; the program goes on as it is then.
        let _ = again.exec();
    }
}

/// The tunables with ours among them; `None` if it is there already.
fn tunables(given: Option<&OsStr>) -> Option<OsString> {
    let given = given.unwrap_or_default();
    if given.to_string_lossy().split(':').any(|tunable| tunable.split('=').next() == Some(TUNABLE))
    {
        return None;
    }
    let mut all = given.to_owned();
    if !all.is_empty() {
        all.push(":");
    }
    all.push(format!("{TUNABLE}={KEPT}"));
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_stays_and_ours_is_set_once() {
        let set = |given: &str| tunables(Some(OsStr::new(given)));
        assert_eq!(tunables(None), Some("glibc.malloc.tcache_count=1000".into()));
        assert_eq!(tunables(None), set(""));
        let both = "glibc.malloc.check=1:glibc.malloc.tcache_count=1000";
        assert_eq!(set("glibc.malloc.check=1"), Some(both.into()));
        assert_eq!(set(both), None);
        assert_eq!(set("glibc.malloc.tcache_count=0"), None);
    }
}
