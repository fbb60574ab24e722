//! The file that is sent: random bytes from a fixed seed, in memory where there is room.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Bytes compared to tell whether a file of the right length is ours.
const SAMPLE: usize = 4096;

/// The input file of `size` bytes; made if it is not there yet.
pub fn file(size: u64) -> Result<PathBuf> {
    let path = folder(size).join(format!("farpipe-bench-{size}.bin"));
    if !is_ours(&path, size) {
        make(&path, size).with_context(|| format!("cannot make {}", path.display()))?;
    }
    Ok(path)
}

/// Memory if twice the size is free there, else the folder for temporary files.
pub fn folder(size: u64) -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let free = nix::sys::statvfs::statvfs(&memory)
        .map_or(0, |stat| stat.blocks_available() * stat.fragment_size());
    if free > 2 * size {
        memory
    } else {
        std::env::temp_dir()
    }
}

fn is_ours(path: &Path, size: u64) -> bool {
    let mut begin = [0; SAMPLE];
    let right_length = path.metadata().is_ok_and(|metadata| metadata.len() == size);
    let read = File::open(path).and_then(|mut file| file.read(&mut begin));
    let expected: Vec<u8> = blocks().flatten().take(SAMPLE).collect();
    right_length && read.is_ok_and(|n| begin[..n] == expected[..n])
}

fn make(path: &Path, size: u64) -> Result<()> {
    eprintln!("making {} ({} MiB)", path.display(), size >> 20);
    let mut options = OpenOptions::new();
    let file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    let mut left = size;
    for block in blocks() {
        let n = left.min(block.len() as u64);
        file.write_all(&block[..n as usize])?;
        left -= n;
        if left == 0 {
            break;
        }
    }
    file.flush()?;
    Ok(())
}

/// SplitMix64: fast, and no compressor gets anywhere with it.
pub fn blocks() -> impl Iterator<Item = [u8; 8]> {
    let mut state = 0x66_61_72_70_69_70_65_u64;
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    })
}
