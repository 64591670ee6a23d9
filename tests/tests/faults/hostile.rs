//! Whoever has a key, or only a socket, and means no good: refused with a reason, in little memory, and nobody
//! else notices.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use weighbridge_meter::{EpochId, Span, UtcMillis, window::Counter};
use weighbridge_tests::{
    agent::AgentOptions,
    handmade::{self, Sender, envelope, field, varint},
    machine::Device,
    oracle::Oracle,
    random::Random,
    site::Site,
    usage, wait,
};
use weighbridge_wire::{Batch, KeyId};

/// More than an ordinary batch costs, and far less than what the bombs would become.
const GROWTH_KIB: u64 = 64 << 10;

struct Attack {
    what: &'static str,
    bytes: Vec<u8>,
    /// What may be answered.
    statuses: &'static [u16],
}

fn compressed(plain: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(plain, 3).unwrap()
}

/// A zstd frame of `mebibytes` of zeros: about a hundred thousandth of it.
fn bomb(mebibytes: usize) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 19).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..mebibytes {
        encoder.write_all(&zeros).unwrap();
    }
    encoder.finish().unwrap()
}

/// A frame whose header asks for a window of 2 GiB and does not say how much there is.
fn giant_window() -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, (31 - 10) << 3];
    // One last block of two raw bytes.
    frame.extend([0x11, 0x00, 0x00, b'o', b'k']);
    frame
}

/// A frame whose header promises 2^62 bytes.
fn giant_promise() -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0xe0];
    frame.extend((1_u64 << 62).to_le_bytes());
    frame.extend([0x11, 0x00, 0x00, b'o', b'k']);
    frame
}

/// Frames that mean nothing and are skipped.
fn skippable(bytes: usize) -> Vec<u8> {
    let mut frame = 0x184d_2a50_u32.to_le_bytes().to_vec();
    frame.extend(u32::try_from(bytes).unwrap().to_le_bytes());
    frame.resize(frame.len() + bytes, 0);
    frame
}

fn with(batch: &Batch, change: impl FnOnce(&mut Batch)) -> Batch {
    let mut batch = batch.clone();
    change(&mut batch);
    batch
}

fn attacks(mallory: &Sender, victim: &Sender, random: &mut Random) -> Vec<Attack> {
    const REFUSED: &[u16] = &[400, 413, 422];
    const UNKNOWN: &[u16] = &[400, 403];
    let now = wait::now();
    let good = mallory.batch(2, [0; 32], now.plus(-60_000), 2);
    let sealed = mallory.seal(&good);
    let stranger = Sender::named("nobody-knows-me");
    let mut list = vec![
        Attack { what: "nothing", bytes: Vec::new(), statuses: REFUSED },
        Attack { what: "more than a mebibyte", bytes: vec![1; (1 << 20) + 1], statuses: &[413] },
        Attack { what: "a stranger's batch", bytes: stranger.seal(&good).bytes, statuses: &[403] },
        Attack {
            what: "another's id under one's own key",
            bytes: mallory.seal(&with(&good, |batch| batch.agent = victim.name.parse().unwrap())).bytes,
            statuses: &[403],
        },
        Attack {
            what: "another's key id over one's own signature",
            bytes: {
                let payload = compressed(b"x");
                envelope(&payload, &KeyId::of(&victim.key.verifying_key()).0, &[7; 64])
            },
            statuses: UNKNOWN,
        },
        Attack {
            what: "a signature that is too short",
            bytes: envelope(b"x", &[1; 16], &[7; 63]),
            statuses: REFUSED,
        },
        Attack { what: "signed noise", bytes: mallory.sign(b"no zstd"), statuses: REFUSED },
        Attack { what: "a bomb of 1 GiB", bytes: mallory.sign(&bomb(1 << 10)), statuses: REFUSED },
        Attack { what: "a window of 2 GiB", bytes: mallory.sign(&giant_window()), statuses: REFUSED },
        Attack { what: "a promise of 2^62 bytes", bytes: mallory.sign(&giant_promise()), statuses: REFUSED },
        Attack { what: "a skippable frame", bytes: mallory.sign(&skippable(900 << 10)), statuses: REFUSED },
        Attack {
            what: "a hundred thousand skippable frames",
            bytes: mallory.sign(&skippable(0).repeat(100_000)),
            statuses: REFUSED,
        },
        Attack {
            what: "a length of 2^31 in a batch",
            bytes: mallory.sign(&compressed(&[vec![0x0a], varint(1 << 31)].concat())),
            statuses: REFUSED,
        },
        Attack {
            what: "a length of 2^31 in the envelope",
            bytes: [vec![0x0a], varint(1 << 31)].concat(),
            statuses: REFUSED,
        },
        Attack {
            what: "a length of 2^64",
            bytes: [vec![0x0a], varint(u64::MAX)].concat(),
            statuses: REFUSED,
        },
        Attack {
            what: "ten thousand groups in each other",
            bytes: mallory
                .sign(&compressed(&[[0xa3, 0x06].repeat(10_000), [0xa4, 0x06].repeat(10_000)].concat())),
            statuses: REFUSED,
        },
        Attack {
            what: "messages in each other",
            bytes: mallory.sign(&compressed(&(0..200).fold(Vec::new(), |inner, _| field(7, &inner)))),
            statuses: REFUSED,
        },
        Attack {
            what: "eight million names of nothing",
            bytes: mallory.sign(&compressed(&[0x32, 0x00].repeat(4 << 20))),
            statuses: REFUSED,
        },
        Attack {
            what: "four million holdings of nothing",
            bytes: mallory.sign(&compressed(&[0x4a, 0x00].repeat(4 << 20))),
            statuses: REFUSED,
        },
        Attack {
            what: "eight million counters",
            bytes: mallory.sign(&compressed(&field(7, &field(10, &[1; 8 << 20][..(8 << 20) - 20])))),
            statuses: REFUSED,
        },
        Attack {
            what: "columns of different lengths",
            bytes: mallory.sign(&compressed(&field(7, &field(1, &[0; 4_000_000])))),
            statuses: REFUSED,
        },
        Attack {
            what: "a number of zero",
            bytes: mallory.seal(&with(&good, |batch| batch.sequence = 0)).bytes,
            statuses: REFUSED,
        },
    ];
    // Any byte of a good one another.
    for _ in 0..40 {
        let mut bytes = sealed.bytes.clone();
        let at = usize::try_from(random.within(0..bytes.len() as u64)).unwrap();
        bytes[at] ^= 1 << random.within(0..8);
        list.push(Attack { what: "one bit another", bytes, statuses: &[400, 403, 413, 422] });
    }
    // Whatever is in a batch that is signed as it should be.
    for _ in 0..40 {
        let size = usize::try_from(random.within(0..400)).unwrap();
        let noise: Vec<u8> = (0..size).map(|_| random.number() as u8).collect();
        list.push(Attack { what: "noise", bytes: mallory.sign(&compressed(&noise)), statuses: REFUSED });
    }
    list
}

#[test]
fn hostile_batches_are_refused_with_a_reason_and_in_little_memory() {
    let mut random = Random::announced();
    let mut site =
        Site::new(vec![AgentOptions::quick("honest", vec![Device::numbered(0), Device::numbered(1)])]);
    let (mallory, victim) = (Sender::named("mallory"), Sender::named("victim"));
    mallory.enrol(&site.collector);
    victim.enrol(&site.collector);
    site.start_agents();
    site.measured(1_500);

    let first = mallory.seal(&mallory.batch(1, [0; 32], wait::now().plus(-120_000), 3));
    assert_eq!(handmade::send(&site.collector, &first.bytes).status, 200);
    let pid = site.collector.id().unwrap();
    let before = usage::most_resident_kib(pid);
    let list = attacks(&mallory, &victim, &mut random);
    for Attack { what, bytes, statuses } in &list {
        let answer = handmade::send(&site.collector, bytes);
        assert!(statuses.contains(&answer.status), "{what}: {} {}", answer.status, answer.body);
        assert!(!answer.body.is_empty(), "{what}: no reason: {answer:?}");
    }
    // The same again is the same; something else under its number is refused, whoever signs.
    assert_eq!(handmade::send(&site.collector, &first.bytes).status, 200);
    let other = mallory.seal(&mallory.batch(1, [0; 32], wait::now().plus(-60_000), 3));
    assert_eq!(handmade::send(&site.collector, &other.bytes).status, 409);
    let unchained = mallory.seal(&mallory.batch(2, [9; 32], wait::now().plus(-60_000), 3));
    assert_eq!(handmade::send(&site.collector, &unchained.bytes).status, 409);
    let grown = usage::most_resident_kib(pid).saturating_sub(before);
    assert!(grown < GROWTH_KIB, "{} attacks made the collector {grown} KiB larger", list.len());

    Oracle::new().judge(&mut site);
    println!("{} attacks: refused, {grown} KiB", list.len());
}

#[test]
fn numbers_that_cannot_be_are_refused_or_harmless() {
    let mut site = Site::new(vec![AgentOptions::quick("honest", vec![Device::numbered(0)])]);
    let mallory = Sender::named("mallory");
    mallory.enrol(&site.collector);
    site.start_agents();
    site.measured(1_500);
    let now = wait::now();
    let good = mallory.batch(1, [0; 32], now.plus(-600_000), 2);
    let far = |years: i64| now.plus(years * 365 * UtcMillis::DAY);
    let at = |start: UtcMillis| {
        with(&good, |batch| batch.windows[0].span = Span::new(start, start.plus(1_000)).unwrap())
    };
    let evil: Vec<(&str, Batch)> = vec![
        (
            "counters of 2^64",
            with(&good, |batch| {
                for window in &mut batch.windows {
                    for counter in [Counter::ElapsedCycles, Counter::TensorCycles, Counter::EnergyMicrojoules]
                    {
                        window.counters = window.counters.with(counter, u64::MAX);
                    }
                }
            }),
        ),
        ("a hundred years ahead", at(far(100))),
        ("before there were computers", at(far(-200))),
        ("boot clocks of an age", with(&good, |batch| batch.windows[0].boot_start_ms = u64::MAX)),
        ("the same second twice", with(&good, |batch| batch.windows[1].span = batch.windows[0].span)),
    ];
    for (number, (what, batch)) in (1..).zip(&evil) {
        // An epoch each: what is refused leaves no hole.
        let batch = with(batch, |batch| batch.epoch = EpochId([number; 16]));
        let answer = handmade::send(&site.collector, &mallory.seal(&batch).bytes);
        // What is physically impossible may be kept as what was said; it must not stop the fold, nor anybody else.
        assert!([200, 400, 409, 413, 422].contains(&answer.status), "{what}: {answer:?}");
        println!("{what}: {}", answer.status);
    }
    let status = site.collector.settle();
    assert!(status["fault"].is_null(), "the fold goes on: {status}");
    Oracle::new().judge(&mut site);
}

#[test]
fn sockets_that_say_little_or_nonsense_hold_nobody_up() {
    let mut site =
        Site::new(vec![AgentOptions::quick("honest", vec![Device::numbered(0), Device::numbered(1)])]);
    site.start_agents();
    site.measured(1_500);
    let connect = || {
        let stream = TcpStream::connect(site.collector.ingest()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream
    };
    let head = "POST /api/v1/batches HTTP/1.1\r\nhost: x\r\n";
    let mut held = Vec::new();
    for number in 0..100 {
        let mut stream = connect();
        let said = match number % 5 {
            0 => String::new(),
            1 => head.to_owned(),
            2 => format!("{head}content-length: 1000000\r\n\r\nhalf of it"),
            3 => format!("{head}transfer-encoding: chunked\r\n\r\nffffffff\r\nthe beginning"),
            _ => format!("{head}content-length: 18446744073709551616\r\n\r\n"),
        };
        stream.write_all(said.as_bytes()).unwrap();
        held.push(stream);
    }
    for said in [
        format!("{head}x-long: {}\r\n\r\n", "a".repeat(1 << 20)),
        (0..2_000).fold(head.to_owned(), |head, number| format!("{head}x-{number}: 1\r\n")) + "\r\n",
        format!("{head}content-length: -1\r\n\r\n"),
        "\0\u{1}\u{2}".repeat(1_000),
        format!("{head}content-length: 5\r\ncontent-length: 6\r\n\r\n12345"),
        format!("{head}transfer-encoding: chunked\r\n\r\n{}0\r\n\r\n", "1\r\nx\r\n".repeat(1_100_000)),
    ] {
        let mut stream = connect();
        drop(stream.write_all(said.as_bytes()));
        let mut answer = [0; 64];
        let read = stream.read(&mut answer).unwrap_or(0);
        let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
        assert!(!answer.contains(" 200 "), "{answer} to {:?}", &said[..said.len().min(80)]);
    }
    Oracle::new().judge(&mut site);
    drop(held);
}
