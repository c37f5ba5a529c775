//! Power cuts: every node has a file system of its own in an image, which is shut down in the middle
//! of its work. What no sync has made durable is gone, as with a real disk that is switched off.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use tercet_testkit::{Cluster, Load};

use crate::{PATIENCE, has, is_root, not_run, on_three_with};

const NAME: &str = "cut_the_power";
const IMAGE_BYTES: u64 = 256 << 20;
/// Before the cut a file has this, synced; it is overwritten just before, without a sync.
const SYNCED: &str = "synced";

/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH` for each directory: the journal is not
/// written any more, and neither is anything else. The safe Rust of this workspace has no ioctl.
const CUT: &str = r#"
import fcntl, os, struct, sys
for directory in sys.argv[1:]:
    with open(directory + "/canary", "r+") as file:
        file.write("FORGOT")
        file.flush()
    disk = os.open(directory, os.O_RDONLY)
    fcntl.ioctl(disk, 0x8004587D, struct.pack("I", 2))
"#;

/// A disk that can lose its power, mounted over a node's directory.
struct Disk {
    image: PathBuf,
    dir: PathBuf,
}

fn call(program: &str, arguments: &[&str], path: &Path) -> anyhow::Result<()> {
    let output =
        Command::new(program).args(arguments).arg(path).output().context(program.to_owned())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}", path.display(), said.trim());
    Ok(())
}

impl Disk {
    fn new(image: PathBuf, dir: PathBuf) -> anyhow::Result<Self> {
        fs::File::create(&image)?.set_len(IMAGE_BYTES)?;
        fs::create_dir_all(&dir)?;
        call("mkfs.ext4", &["-q", "-F", "-m", "0"], &image)?;
        let disk = Self { image, dir };
        disk.mount()?;
        fs::write(disk.canary(), SYNCED)?;
        fs::File::open(disk.canary())?.sync_all()?;
        Ok(disk)
    }

    fn canary(&self) -> PathBuf {
        self.dir.join("canary")
    }

    fn mount(&self) -> anyhow::Result<()> {
        let image = self.image.display().to_string();
        call("mount", &["-o", "loop", &image], &self.dir)
    }

    /// Off and on again, when nobody has a file open any more. Says whether the disk had forgotten
    /// what was not synced.
    fn start_again(&self) -> anyhow::Result<bool> {
        call("umount", &[], &self.dir)?;
        self.mount()?;
        Ok(fs::read_to_string(self.canary())? == SYNCED)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a node may still have it open when a test fails.
        let _ = Command::new("umount").arg("-l").arg(&self.dir).status();
    }
}

fn cut(disks: &[&Disk]) -> anyhow::Result<()> {
    let dirs = disks.iter().map(|disk| &disk.dir);
    let output = Command::new("python3").args(["-c", CUT]).args(dirs).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Whether this machine lets disks be made, switched off and on again; otherwise why not.
fn can_cut() -> anyhow::Result<()> {
    ensure!(is_root(), "mounting an image needs root");
    for program in ["mkfs.ext4", "mount", "umount", "python3"] {
        ensure!(has(program), "{program} is not installed");
    }
    let dir = tempfile::Builder::new().prefix("tercet-").tempdir()?;
    let disk = Disk::new(dir.path().join("image"), dir.path().join("disk"))?;
    cut(&[&disk])?;
    ensure!(disk.start_again()?, "the file system keeps what was not synced");
    Ok(())
}

/// The power of one machine fails, or of two, or (half of the times) of all three, under load. What
/// was acknowledged is there when they have it again.
#[test]
fn cut_the_power() {
    if let Err(error) = can_cut() {
        return not_run(NAME, &format!("{error:#}"));
    }
    let small = ["--segment=4MiB", "--disk-reserve=4MiB"];
    on_three_with(NAME, 10, &small, |cluster: &mut Cluster, run| {
        let disks = (1..=cluster.count())
            .map(|id| Disk::new(cluster.dir().join(format!("n{id}.img")), cluster.data(id)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        cluster.start_all()?;
        let load = Load::start(cluster.addresses(), 4, run.seed);
        let (mut forgot, mut cuts, mut all) = (0, 0, 0);
        while run.again() {
            load.await_progress(20, PATIENCE);
            std::thread::sleep(run.random.millis(0, 50));
            let mut ids: Vec<usize> = (1..=cluster.count()).collect();
            if run.begun % 2 == 0 {
                ids.remove(run.random.node(3) - 1);
                if run.random.below(2) == 0 {
                    ids.remove(run.random.node(2) - 1);
                }
            }
            cut(&ids.iter().map(|id| &disks[id - 1]).collect::<Vec<_>>())?;
            all += u64::from(ids.len() == cluster.count());
            for id in &ids {
                cluster.kill(*id)?;
                cuts += 1;
                forgot += u64::from(disks[id - 1].start_again()?);
            }
            for id in ids {
                cluster.start(id)?;
            }
        }
        load.await_progress(20, PATIENCE);
        run.note(format!(
            "all three at once {all} times; {forgot} of {cuts} disks had forgotten what was not synced"
        ));
        ensure!(forgot > 0, "no disk had forgotten what was not synced");
        cluster.judge(&load.finish())
    });
}
