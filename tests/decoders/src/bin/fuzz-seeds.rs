//! Writes what mutations begin with, a folder for each decoder, and lists the decoders with their longest input.

use std::{fs, path::PathBuf};

use weighbridge_decoders::{TARGETS, seeds};

fn main() {
    let folder = PathBuf::from(std::env::args().nth(1).expect("a folder to write to"));
    for target in TARGETS {
        let folder = folder.join(target.name);
        fs::create_dir_all(&folder).expect("the folder is writable");
        for (number, seed) in seeds(target.name).iter().enumerate() {
            fs::write(folder.join(format!("seed-{number}")), seed).expect("the folder is writable");
        }
        println!("{} {}", target.name, target.most);
    }
}
