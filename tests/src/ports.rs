//! Ports for child processes.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// A free address on the loopback interface.
///
/// It lies below the range that the kernel takes the ports of clients from: a client that keeps knocking at a port
/// there, where nobody listens any more, can be given that very port and end up connected to itself.
///
/// # Panics
/// If thousands of ports are taken.
pub fn free() -> SocketAddr {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 12_000;
    for _ in 0..COUNT {
        let offset =
            process::id().wrapping_mul(151).wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + offset).expect("below 65536");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no free port from {FIRST} on");
}
