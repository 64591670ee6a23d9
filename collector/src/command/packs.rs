//! Rule packs as files: checked, signed and listed.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use weighbridge_casework::RulePack;
use weighbridge_tlog::note::{SignerKey, VerifierKey};

use super::{Failure, say, write_private};
use crate::{
    config::Config,
    packs::{self, PackFileError},
    random,
};

/// What can be done with packs.
#[derive(Debug, Subcommand)]
pub(crate) enum Packs {
    /// Checks packs: form, examples, and with --trusted-key the signatures beside them. Needs no configuration.
    Check {
        /// `<id>@<version>.toml`.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// A key of which one must have signed each, as `keygen` prints it.
        #[arg(long = "trusted-key", value_name = "KEY")]
        trusted: Vec<String>,
    },
    /// Lists the packs that the configuration loads: where from, signed by whom, and whether they are in use.
    Ls,
    /// Signs packs, each as FILE.sig. Only what passes `check` is signed.
    Sign {
        /// The file that `keygen` made.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// `<id>@<version>.toml`.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Makes a key to sign packs with, and prints what goes into rules.trusted_keys.
    Keygen {
        /// How the key is called, such as legal.example.com; without spaces and plus.
        name: String,
        /// Where the secret goes: a new file that only its owner may read. Keep it away from collectors.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

impl Packs {
    pub(crate) async fn run(self, load: impl FnOnce() -> Result<Config, Failure>) -> Result<(), Failure> {
        match self {
            Self::Check { files, trusted } => check(&files, &trusted),
            Self::Ls => {
                list(&load()?);
                Ok(())
            }
            Self::Sign { key, files } => sign(&key, &files),
            Self::Keygen { name, out } => keygen(&name, &out),
        }
    }
}

/// The name of a file without its folder.
fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

fn parsed(path: &Path) -> Result<(String, String, RulePack), PackFileError> {
    let file = name_of(path);
    let text = packs::read(path, &file)?;
    let pack = RulePack::parse(&file, &text)?;
    Ok((file, text, pack))
}

fn check(files: &[PathBuf], trusted: &[String]) -> Result<(), Failure> {
    let key = |text: &String| {
        packs::trusted_key(text).ok_or_else(|| {
            Failure::usage(format!("--trusted-key: {text:?} is not a key as `packs keygen` prints it"))
        })
    };
    let trusted: Vec<VerifierKey> = trusted.iter().map(key).collect::<Result<_, _>>()?;
    let mut bad = Vec::new();
    for path in files {
        let checked = parsed(path).and_then(|(file, text, pack)| {
            let by = match trusted.as_slice() {
                [] => None,
                keys => Some(packs::signed_by(path, &file, &text, keys)?),
            };
            Ok((file, pack, by))
        });
        match checked {
            Ok((file, pack, by)) => {
                let signed = by
                    .map_or("signature not checked".to_owned(), |by| format!("signed by {}", by.join(", ")));
                let (rules, sha256) = (pack.rule.len(), pack.sha256());
                let rules = if rules == 1 { "1 rule".to_owned() } else { format!("{rules} rules") };
                say(format_args!("{file}: ok, {rules}, {signed}, sha256 {sha256}"));
            }
            Err(error) => bad.push(error.to_string()),
        }
    }
    if bad.is_empty() { Ok(()) } else { Err(Failure::check(bad.join("\n"))) }
}

fn list(config: &Config) {
    let signed = |pack: &RulePack| match config.pack_signers.get(&pack.named()) {
        Some(by) => format!("signed by {}", by.join(", ")),
        None => "shipped".to_owned(),
    };
    for (pack, evaluated) in &config.packs {
        let use_ = if *evaluated { "compared with" } else { "not compared with" };
        say(format_args!("{}: {use_}, {}, sha256 {}", pack.named(), signed(pack), pack.sha256()));
    }
    for pack in &config.older_packs {
        say(format_args!("{}: older, {}, sha256 {}", pack.named(), signed(pack), pack.sha256()));
    }
}

fn sign(key: &Path, files: &[PathBuf]) -> Result<(), Failure> {
    let shown = key.display();
    let text = std::fs::read_to_string(key).map_err(|error| Failure::usage(format!("{shown}: {error}")))?;
    let key: SignerKey = text.parse().map_err(|error| Failure::usage(format!("{shown}: {error}")))?;
    // All are looked at before the first is signed.
    let packs = files.iter().map(|path| parsed(path).map_err(Failure::check));
    for (path, packed) in files.iter().zip(packs.collect::<Result<Vec<_>, _>>()?) {
        let (file, text, _) = packed;
        let out = packs::signature_of(path);
        let before = match std::fs::read_to_string(&out) {
            Ok(before) => Some(before),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(Failure::usage(format!("{}: {error}", out.display()))),
        };
        let note = packs::sign(&file, &text, before.as_deref(), &key);
        std::fs::write(&out, note).map_err(|error| Failure::usage(format!("{}: {error}", out.display())))?;
        say(out.display());
    }
    Ok(())
}

fn keygen(name: &str, out: &Path) -> Result<(), Failure> {
    let expected = || Failure::usage(format!("{name:?} is not a name without spaces and plus"));
    let key = weighbridge_wire::SigningKey::from_bytes(&random::bytes());
    let key = SignerKey::new(name, key).ok_or_else(expected)?;
    if out.exists() {
        return Err(Failure::usage(format!("{}: is there already, and is not overwritten", out.display())));
    }
    write_private(out, format!("{}\n", key.secret_text()).as_bytes())
        .map_err(|error| Failure::usage(format!("{}: {error}", out.display())))?;
    say(key.verifier());
    Ok(())
}
