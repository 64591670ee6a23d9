//! Places where tests make a program fail: every write, rename, removal, sync and commit that something
//! durable rests on runs through [`around`].
//!
//! Without the feature `fail-points`, which only the tests enable, a step just runs: a program that is built
//! by itself has no such places. With it a process fails where its environment says when it starts:
//!
//! - `WEIGHBRIDGE_FAIL_POINT=<name>[:<before|after>[:<n>[:<abort|error>]]]`: at the `n`-th time (default 1)
//!   that the step of this name comes up, either before it runs (default) or after it ran, the process aborts
//!   (default), or the step gives an I/O error. What reads otherwise aborts at once: a test that arms nothing
//!   must not pass.
//! - `WEIGHBRIDGE_FAIL_POINTS_TO=<file>`: the name of each step is appended there whenever it comes up, so that a
//!   test can fail at all there are without a list of them.
//! - `WEIGHBRIDGE_FAIL_POINTS_FROM=<name>`: what comes up before the step of this name first does is neither counted
//!   nor appended, so that a test can fail within one act of a program and not in its start.

#[cfg(not(feature = "fail-points"))]
use std::io;

/// Runs a step, with a place to fail before it and one after it.
#[cfg(not(feature = "fail-points"))]
#[inline]
pub fn around<T>(_: &'static str, step: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    step()
}

/// The place before a step that is not a closure, as one that is awaited.
#[cfg(not(feature = "fail-points"))]
#[inline]
pub fn before(_: &'static str) -> io::Result<()> {
    Ok(())
}

/// The place after such a step.
#[cfg(not(feature = "fail-points"))]
#[inline]
pub fn after(_: &'static str) -> io::Result<()> {
    Ok(())
}

#[cfg(feature = "fail-points")]
pub use self::armed::{after, around, before};

#[cfg(feature = "fail-points")]
mod armed {
    use std::{
        env,
        fs::File,
        io::{self, Write},
        process,
        sync::{
            OnceLock,
            atomic::{AtomicBool, AtomicU64, Ordering},
        },
    };

    /// Runs a step, with a place to fail before it and one after it.
    pub fn around<T>(name: &'static str, step: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        before(name)?;
        let done = step()?;
        after(name)?;
        Ok(done)
    }

    /// The place before a step that is not a closure, as one that is awaited.
    pub fn before(name: &'static str) -> io::Result<()> {
        if !has_begun(name) {
            return Ok(());
        }
        note(name);
        reach(name, Moment::Before)
    }

    /// The place after such a step.
    pub fn after(name: &'static str) -> io::Result<()> {
        if BEGUN.load(Ordering::SeqCst) { reach(name, Moment::After) } else { Ok(()) }
    }

    /// Whether steps count yet.
    static BEGUN: AtomicBool = AtomicBool::new(false);

    /// Whether they do now that this one comes up.
    fn has_begun(name: &str) -> bool {
        static FROM: OnceLock<Option<String>> = OnceLock::new();
        let from = FROM.get_or_init(|| env::var("WEIGHBRIDGE_FAIL_POINTS_FROM").ok());
        if from.as_ref().is_none_or(|from| from == name) {
            BEGUN.store(true, Ordering::SeqCst);
        }
        BEGUN.load(Ordering::SeqCst)
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Moment {
        Before,
        After,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Action {
        Abort,
        Error,
    }

    #[derive(Debug)]
    pub(super) struct Point {
        pub(super) name: String,
        pub(super) moment: Moment,
        pub(super) time: u64,
        pub(super) action: Action,
        passed: AtomicU64,
    }

    impl Point {
        /// `None` where the text is none.
        pub(super) fn parse(text: &str) -> Option<Self> {
            let mut parts = text.split(':');
            let name = parts.next().filter(|name| !name.is_empty())?.to_owned();
            let moment = match parts.next() {
                None | Some("before") => Moment::Before,
                Some("after") => Moment::After,
                Some(_) => return None,
            };
            let time = parts.next().map_or(Some(1), |time| time.parse().ok()).filter(|time| *time > 0)?;
            let action = match parts.next() {
                None | Some("abort") => Action::Abort,
                Some("error") => Action::Error,
                Some(_) => return None,
            };
            parts.next().is_none().then_some(Self { name, moment, time, action, passed: AtomicU64::new(0) })
        }

        /// What happens here and now, if anything.
        pub(super) fn reached(&self, name: &str, moment: Moment) -> Option<Action> {
            if self.name != name || self.moment != moment {
                return None;
            }
            let time = self.passed.fetch_add(1, Ordering::SeqCst) + 1;
            (time == self.time).then_some(self.action)
        }
    }

    fn reach(name: &str, moment: Moment) -> io::Result<()> {
        static POINT: OnceLock<Option<Point>> = OnceLock::new();
        let point = POINT.get_or_init(|| {
            let text = env::var("WEIGHBRIDGE_FAIL_POINT").ok()?;
            let point = Point::parse(&text);
            if point.is_none() {
                eprintln!("WEIGHBRIDGE_FAIL_POINT: {text:?} is not name:before|after:n:abort|error");
                process::abort();
            }
            point
        });
        match point.as_ref().and_then(|point| point.reached(name, moment)) {
            None => Ok(()),
            // As a kill would: nothing is written out, nothing is dropped.
            Some(Action::Abort) => process::abort(),
            Some(Action::Error) => Err(io::Error::other(format!("fail point {name}"))),
        }
    }

    fn note(name: &'static str) {
        static FILE: OnceLock<Option<File>> = OnceLock::new();
        let file = FILE.get_or_init(|| {
            let path = env::var_os("WEIGHBRIDGE_FAIL_POINTS_TO")?;
            File::options().create(true).append(true).open(path).ok()
        });
        if let Some(mut file) = file.as_ref() {
            // Who reads it misses the name then, and says so.
            drop(file.write_all(format!("{name}\n").as_bytes()));
        }
    }
}

#[cfg(all(test, feature = "fail-points"))]
mod tests {
    use super::armed::{Action, Moment, Point};

    #[test]
    fn a_point_says_where_when_and_what() {
        let short = Point::parse("journal.sync").unwrap();
        assert_eq!((short.moment, short.time, short.action), (Moment::Before, 1, Action::Abort));
        let long = Point::parse("journal.sync:after:3:error").unwrap();
        assert_eq!(long.name, "journal.sync");
        assert_eq!((long.moment, long.time, long.action), (Moment::After, 3, Action::Error));
        for none in
            ["", ":after", "a:between", "a:after:0", "a:after:x", "a:after:1:panic", "a:after:1:error:2"]
        {
            assert!(Point::parse(none).is_none(), "{none}");
        }
    }

    #[test]
    fn it_acts_once_at_its_time_and_nowhere_else() {
        let point = Point::parse("a:after:2:error").unwrap();
        assert_eq!(point.reached("b", Moment::After), None);
        assert_eq!(point.reached("a", Moment::Before), None);
        assert_eq!(point.reached("a", Moment::After), None);
        assert_eq!(point.reached("a", Moment::After), Some(Action::Error));
        assert_eq!(point.reached("a", Moment::After), None);
    }
}
