//! A tree of files as the kernel shows them.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

/// A `sys` of its own.
pub(crate) struct Tree {
    root: TempDir,
}

impl Tree {
    pub(crate) fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn driver(&self, name: &str) -> PathBuf {
        let dir = self.path().join("bus/pci/drivers").join(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    pub(crate) fn device(&self, address: &str) -> PathBuf {
        self.path().join("bus/pci/devices").join(address)
    }

    /// A function on the bus without a driver; `pci` as in `1002:74a1`.
    pub(crate) fn plug(&self, address: &str, pci: &str, class: &str) {
        let (vendor, device) = pci.split_once(':').unwrap();
        fs::create_dir_all(self.device(address)).unwrap();
        self.write(address, "vendor", format!("0x{vendor}\n"));
        self.write(address, "device", format!("0x{device}\n"));
        self.write(address, "class", format!("0x{class}\n"));
    }

    pub(crate) fn unplug(&self, address: &str) {
        self.unbind(address);
        fs::remove_dir_all(self.device(address)).unwrap();
    }

    pub(crate) fn bind(&self, address: &str, driver: &str) {
        self.unbind(address);
        let dir = self.driver(driver);
        symlink(&dir, self.device(address).join("driver")).unwrap();
        symlink(self.device(address), dir.join(address)).unwrap();
    }

    pub(crate) fn unbind(&self, address: &str) {
        let link = self.device(address).join("driver");
        if let Ok(driver) = fs::read_link(&link) {
            fs::remove_file(driver.join(address)).unwrap();
            fs::remove_file(link).unwrap();
        }
    }

    pub(crate) fn write(&self, address: &str, file: &str, what: impl AsRef<[u8]>) {
        let path = self.device(address).join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, what).unwrap();
    }

    /// A device of the amdgpu driver with a number of its own.
    pub(crate) fn amd(&self, address: &str, pci: &str, unique_id: &str) {
        self.plug(address, pci, "120000");
        self.write(address, "unique_id", format!("{unique_id}\n"));
        self.bind(address, "amdgpu");
    }
}
