//! The collector's own certificate authority.
//!
//! There are one or more authorities, of which one is active and signs. All of them lie in one file of the key
//! folder, `authorities.json`, with their keys under lock of the operator's key; the file changes as a whole.
//! Another authority comes in three steps. *Introduced*, it is beside the active one: agents learn it when they
//! renew. *Active*, it signs, and the one before is *leaving*: what that one signed still counts, and it has
//! signed its successor too, so that an agent that was away and knows only the old one still believes the
//! server. *Retired*, the old one is gone, and what it signed with it: not before the last of that can no longer
//! be renewed, for which the file says how far ahead each has signed.
//!
//! Deliberately absent: revocation lists and serial numbers that mean something. Who is shut out is a fact in
//! the ledger, asked at each request.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
    string::Ia5String,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use weighbridge_journal::fail;
use weighbridge_meter::{AgentId, UtcMillis};
use weighbridge_registry::{KeyError, KeyStore, RandomSource, SealedField};
use weighbridge_wire::certificate::{IdentityPattern, Looked, fingerprint};

/// An authority lasts so long; it is meant to be replaced before.
const AUTHORITY_LASTS_MS: i64 = 10 * 365 * UtcMillis::DAY;

/// No certificate ends later: what encodes times ends with the year 9999.
const LATEST_MS: i64 = 250_000_000_000_000;

/// How far ahead has been signed is kept rounded up by this part of a certificate's life.
const AHEAD: u32 = 8;

/// What stands before 32 bytes to make an Ed25519 key of them: version 0, the algorithm, two lengths (RFC 8410).
const ED25519_PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// How far an authority has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Agents learn it; it signs nothing.
    Introduced,
    /// It signs.
    Active,
    /// It signs no more; what it signed counts.
    Leaving,
}

/// One authority.
#[derive(Debug)]
struct Authority {
    certificate: CertificateDer<'static>,
    /// This authority, signed by the one that was active when it was introduced.
    crossed: Option<CertificateDer<'static>>,
    stage: Stage,
    since: UtcMillis,
    /// No certificate that it signed for an agent ends later; as in the file.
    signed_until: Option<UtcMillis>,
    key: SealedField,
    issuer: Issuer<'static, KeyPair>,
}

/// All authorities of a collector.
#[derive(Debug)]
pub struct Authorities {
    file: Option<PathBuf>,
    list: Vec<Authority>,
}

/// What people see of an authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityInfo {
    /// SHA-256 of its certificate, in hexadecimal.
    pub fingerprint: String,
    /// How far it has come.
    pub stage: Stage,
    /// Since when.
    pub since: UtcMillis,
    /// When its certificate ends.
    pub until: UtcMillis,
}

/// The authority cannot do that.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The file.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// What is in the file.
    #[error("{}: {problem}", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A key does not open.
    #[error("the keys of the authorities")]
    Key(#[from] KeyError),
    /// Something could not be signed.
    #[error("cannot sign a certificate")]
    Sign(#[from] rcgen::Error),
    /// A step that does not follow on the one before.
    #[error("{0}")]
    Step(&'static str),
    /// The clock is wrong now, or was when the authority was made: what it would sign ends too early.
    #[error(
        "the collector's clock says {now}, and its authority begins at {begins}: set the clock, or, if it was \
         ahead when the authority was made, introduce and activate another one"
    )]
    ClockBehind {
        /// By the clock.
        now: UtcMillis,
        /// When the authority begins.
        begins: UtcMillis,
    },
    /// Too early: agents would be lost.
    #[error(
        "not before {earliest}: until then an agent that was off can come back with what this would end; \
         --force does it now"
    )]
    TooEarly {
        /// From when on it is safe.
        earliest: UtcMillis,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: String,
    authorities: Vec<StoredAuthority>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredAuthority {
    certificate: String,
    key: SealedField,
    stage: Stage,
    since: UtcMillis,
    crossed: Option<String>,
    /// Missing in files of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signed_until: Option<UtcMillis>,
}

const VERSION: &str = "authorities-v1";
const FILE: &str = "authorities.json";

/// A certificate that was signed.
#[derive(Clone, Debug)]
pub struct Signed {
    /// DER.
    pub certificate: CertificateDer<'static>,
    /// What it says.
    pub looked: Looked,
}

/// A server's certificate with its key.
#[derive(Debug)]
pub struct ServerIdentity {
    /// Its own first, then what leads to every authority.
    pub chain: Vec<CertificateDer<'static>>,
    /// PKCS #8.
    pub key: PrivatePkcs8KeyDer<'static>,
    /// What its own says.
    pub looked: Looked,
}

impl Authorities {
    /// Reads the authorities in the key folder, or makes the first one; tells whether it was made.
    pub fn open_or_make(
        keys: &KeyStore,
        now: UtcMillis,
        random: RandomSource<'_>,
    ) -> Result<(Self, bool), AuthorityError> {
        if let Some(authorities) = Self::open(keys)? {
            return Ok((authorities, false));
        }
        let first = made(keys, Stage::Active, now, None, random)?;
        let authorities = Self { file: Some(keys.folder().join(FILE)), list: vec![first] };
        authorities.save(&authorities.list)?;
        Ok((authorities, true))
    }

    /// Reads the authorities in the key folder, if there are any.
    pub fn open(keys: &KeyStore) -> Result<Option<Self>, AuthorityError> {
        let file = keys.folder().join(FILE);
        let text = match fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(AuthorityError::File { doing: "read", path: file, source }),
        };
        let damaged = |problem: String| AuthorityError::Damaged { path: file.clone(), problem };
        let stored: Stored = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if stored.version != VERSION {
            return Err(damaged(format!("version {:?}, expected {VERSION:?}", stored.version)));
        }
        let mut list = Vec::new();
        for one in stored.authorities {
            let der = |text: &str| {
                let bytes = BASE64_STANDARD.decode(text).map_err(|_| damaged("not base64".into()))?;
                Looked::at(&bytes).map_err(|error| damaged(error.to_string()))?;
                Ok::<_, AuthorityError>(CertificateDer::from(bytes))
            };
            let certificate = der(&one.certificate)?;
            let pkcs8 = keys.open_wrapped(&purpose(&certificate), &one.key)?;
            list.push(Authority {
                issuer: issuer(&certificate, &pkcs8)?,
                crossed: one.crossed.as_deref().map(der).transpose()?,
                stage: one.stage,
                since: one.since,
                signed_until: one.signed_until,
                key: one.key,
                certificate,
            });
        }
        let active = list.iter().filter(|one| one.stage == Stage::Active).count();
        if active != 1 {
            return Err(damaged(format!("{active} active authorities, expected one")));
        }
        Ok(Some(Self { file: Some(file), list }))
    }

    /// Puts their keys under the operator's key that is in use. What was there is overwritten where it lies.
    pub fn relock(&mut self, keys: &KeyStore, random: RandomSource<'_>) -> Result<(), AuthorityError> {
        let Some(file) = self.file.clone() else { return Ok(()) };
        let mut relocked = Vec::new();
        for one in &self.list {
            let purpose = purpose(&one.certificate);
            relocked.push(keys.wrap(&purpose, &keys.open_wrapped(&purpose, &one.key)?, random));
        }
        let failed = |doing| {
            let path = file.clone();
            move |source| AuthorityError::File { doing, path, source }
        };
        let mut old = fs::OpenOptions::new().write(true).open(&file).map_err(failed("open"))?;
        let mut swap = |list: &mut Vec<Authority>| {
            list.iter_mut().zip(&mut relocked).for_each(|(one, key)| std::mem::swap(&mut one.key, key));
        };
        swap(&mut self.list);
        if let Err(error) = self.save(&self.list) {
            // Which of both is in the file is not known, and either opens until the change is finished.
            swap(&mut self.list);
            return Err(error);
        }
        let length = old.metadata().map_err(failed("overwrite"))?.len();
        fail::around("authority.overwrite", || {
            io::copy(&mut io::Read::take(io::repeat(0), length), &mut old)?;
            old.sync_all()
        })
        .map_err(failed("overwrite"))
    }

    /// One authority in memory alone: for tests and benchmarks.
    pub fn in_memory(
        keys: &KeyStore,
        now: UtcMillis,
        random: RandomSource<'_>,
    ) -> Result<Self, AuthorityError> {
        Ok(Self { file: None, list: vec![made(keys, Stage::Active, now, None, random)?] })
    }

    /// Certificates of all of them: whom to believe.
    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        self.list.iter().map(|one| one.certificate.clone()).collect()
    }

    /// [`fingerprint`] of the active one.
    pub fn fingerprint(&self) -> [u8; 32] {
        fingerprint(&self.active().certificate)
    }

    /// All of them, for people.
    pub fn infos(&self) -> Vec<AuthorityInfo> {
        let info = |one: &Authority| AuthorityInfo {
            fingerprint: weighbridge_store::fold::hex(&fingerprint(&one.certificate)),
            stage: one.stage,
            since: one.since,
            until: Looked::at(&one.certificate).map(|looked| looked.not_after).unwrap_or_default(),
        };
        self.list.iter().map(info).collect()
    }

    fn active(&self) -> &Authority {
        let active = self.list.iter().find(|one| one.stage == Stage::Active);
        active.expect("checked when read, and kept by every step")
    }

    /// A certificate for the server under these names, with a new key.
    pub fn server(
        &self,
        names: &[String],
        lasts: Duration,
        now: UtcMillis,
        random: RandomSource<'_>,
    ) -> Result<ServerIdentity, AuthorityError> {
        let key = new_key(random);
        let pair = KeyPair::try_from(&key)?;
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = called("weighbridge collector");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let signed = self.sign(params, &pair, lasts, now, random)?;
        let crossed = self.list.iter().filter_map(|one| one.crossed.clone());
        let chain = std::iter::once(signed.certificate).chain(crossed).chain(self.roots());
        Ok(ServerIdentity { chain: chain.collect(), key, looked: signed.looked })
    }

    /// A certificate for an agent, of the key in its request. Nothing else of the request counts.
    pub fn agent(
        &mut self,
        agent: &AgentId,
        request: &[u8],
        lasts: Duration,
        now: UtcMillis,
        random: RandomSource<'_>,
    ) -> Result<Signed, AuthorityError> {
        let begins = Looked::at(&self.active().certificate).map_or(now, |looked| looked.not_before);
        if now < begins {
            return Err(AuthorityError::ClockBehind { now, begins });
        }
        let request =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = called("weighbridge agent");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let uri = Ia5String::try_from(IdentityPattern::default().uri(agent))?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        let signed = self.sign(params, &request.public_key, lasts, now, random)?;
        self.reaches(signed.looked.not_after, lasts)?;
        Ok(signed)
    }

    /// Keeps how far ahead the active authority has signed, before anybody has what it signed; somewhat further, so
    /// that the file is written a few times in the life of a certificate and not for each.
    fn reaches(&mut self, until: UtcMillis, lasts: Duration) -> Result<(), AuthorityError> {
        let active = self.list.iter_mut().find(|one| one.stage == Stage::Active);
        let active = active.expect("checked when read, and kept by every step");
        let before = active.signed_until;
        if before.is_some_and(|before| until <= before) {
            return Ok(());
        }
        active.signed_until = Some(until.plus(millis(lasts / AHEAD)));
        let saved = self.save(&self.list);
        if saved.is_err() {
            for one in self.list.iter_mut().filter(|one| one.stage == Stage::Active) {
                one.signed_until = before;
            }
        }
        saved
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        key: &impl PublicKeyData,
        lasts: Duration,
        now: UtcMillis,
        random: RandomSource<'_>,
    ) -> Result<Signed, AuthorityError> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        dated(&mut params, now, now.plus(millis(lasts)));
        params.serial_number = Some(serial(random));
        let certificate = params.signed_by(key, &self.active().issuer)?.der().clone();
        let looked = Looked::at(&certificate).map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
        Ok(Signed { certificate, looked })
    }

    /// Puts a new authority beside the active one.
    pub fn introduce(
        &mut self,
        keys: &KeyStore,
        now: UtcMillis,
        random: RandomSource<'_>,
    ) -> Result<(), AuthorityError> {
        if self.list.iter().any(|one| one.stage == Stage::Introduced) {
            return Err(AuthorityError::Step("there is an introduced authority already: activate it"));
        }
        let new = made(keys, Stage::Introduced, now, Some(&self.active().issuer), random)?;
        self.list.push(new);
        if let Err(error) = self.save(&self.list) {
            self.list.pop();
            return Err(error);
        }
        Ok(())
    }

    /// Lets the introduced authority sign. Agents need `learnt` to have heard of it.
    pub fn activate(&mut self, now: UtcMillis, learnt: Duration, force: bool) -> Result<(), AuthorityError> {
        let introduced = self.list.iter().find(|one| one.stage == Stage::Introduced);
        let introduced =
            introduced.ok_or(AuthorityError::Step("there is no introduced authority: introduce one"))?;
        not_before(introduced.since, learnt, now, force)?;
        self.change(now, |stage| match stage {
            Stage::Introduced => Stage::Active,
            Stage::Active | Stage::Leaving => Stage::Leaving,
        })
    }

    /// Drops the authorities that are leaving. What they signed lasts for `lasts` and longer where that is in the
    /// file, and counts for `grace` more, in which an agent that was off renews under it.
    pub fn retire(
        &mut self,
        now: UtcMillis,
        lasts: Duration,
        grace: Duration,
        force: bool,
    ) -> Result<(), AuthorityError> {
        let leaving = self.list.iter().filter(|one| one.stage == Stage::Leaving);
        let ends =
            leaving.map(|one| one.since.plus(millis(lasts)).max(one.signed_until.unwrap_or(one.since)));
        let ends = ends.max().ok_or(AuthorityError::Step("no authority is leaving"))?;
        not_before(ends, grace, now, force)?;
        let (gone, mut stay): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.list).into_iter().partition(|one| one.stage == Stage::Leaving);
        // Nobody is left who would need it to believe the active one. What the active one signed for its successor
        // stays.
        let active = stay.iter_mut().find(|one| one.stage == Stage::Active);
        let crossed = active.and_then(|active| active.crossed.take());
        if let Err(error) = self.save(&stay) {
            for one in stay.iter_mut().filter(|one| one.stage == Stage::Active) {
                one.crossed = crossed.clone();
            }
            self.list = gone.into_iter().chain(stay).collect();
            return Err(error);
        }
        self.list = stay;
        Ok(())
    }

    fn change(&mut self, now: UtcMillis, next: impl Fn(Stage) -> Stage) -> Result<(), AuthorityError> {
        let before: Vec<(Stage, UtcMillis)> = self.list.iter().map(|one| (one.stage, one.since)).collect();
        for one in &mut self.list {
            let stage = next(one.stage);
            if stage != one.stage {
                (one.stage, one.since) = (stage, now);
            }
        }
        let saved = self.save(&self.list);
        if saved.is_err() {
            for (one, (stage, since)) in self.list.iter_mut().zip(before) {
                (one.stage, one.since) = (stage, since);
            }
        }
        saved
    }

    /// Whole or not at all, and for nobody else to read.
    fn save(&self, list: &[Authority]) -> Result<(), AuthorityError> {
        let Some(file) = &self.file else { return Ok(()) };
        let stored = |one: &Authority| StoredAuthority {
            certificate: BASE64_STANDARD.encode(&one.certificate),
            key: one.key.clone(),
            stage: one.stage,
            since: one.since,
            signed_until: one.signed_until,
            crossed: one.crossed.as_ref().map(|der| BASE64_STANDARD.encode(der)),
        };
        let stored = Stored { version: VERSION.into(), authorities: list.iter().map(stored).collect() };
        let text = serde_json::to_vec_pretty(&stored).expect("plain data with string keys");
        replace_private(file, &text).map_err(|source| AuthorityError::File {
            doing: "write",
            path: file.clone(),
            source,
        })
    }
}

fn not_before(since: UtcMillis, wait: Duration, now: UtcMillis, force: bool) -> Result<(), AuthorityError> {
    let earliest = since.plus(millis(wait));
    if force || earliest <= now { Ok(()) } else { Err(AuthorityError::TooEarly { earliest }) }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn replace_private(file: &Path, content: &[u8]) -> io::Result<()> {
    let new = file.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut open = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    fail::around("authority.write", || open.write_all(content))?;
    fail::around("authority.sync", || open.sync_all())?;
    fail::around("authority.rename", || fs::rename(&new, file))?;
    match file.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn new_key(random: RandomSource<'_>) -> PrivatePkcs8KeyDer<'static> {
    let mut seed = [0; 32];
    random(&mut seed);
    PrivatePkcs8KeyDer::from([&ED25519_PKCS8[..], &seed].concat())
}

fn made(
    keys: &KeyStore,
    stage: Stage,
    now: UtcMillis,
    signed_by: Option<&Issuer<'static, KeyPair>>,
    random: RandomSource<'_>,
) -> Result<Authority, AuthorityError> {
    let key = new_key(random);
    let pair = KeyPair::try_from(&key)?;
    let mut name = [0; 4];
    random(&mut name);
    let mut params = CertificateParams::default();
    // Each has a name of its own, so that what leads to one is never taken to lead to another.
    let name = format!("weighbridge authority {}", weighbridge_store::fold::hex(&name));
    params.distinguished_name = called(&name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    dated(&mut params, now, now.plus(AUTHORITY_LASTS_MS));
    params.serial_number = Some(serial(random));
    let certificate = params.self_signed(&pair)?.der().clone();
    let crossed = signed_by.map(|issuer| {
        params.serial_number = Some(serial(random));
        params.signed_by(&pair, issuer).map(|signed| signed.der().clone())
    });
    Ok(Authority {
        key: keys.wrap(&purpose(&certificate), key.secret_pkcs8_der(), random),
        issuer: issuer(&certificate, key.secret_pkcs8_der())?,
        crossed: crossed.transpose()?,
        certificate,
        stage,
        since: now,
        signed_until: None,
    })
}

fn issuer(
    certificate: &CertificateDer<'static>,
    pkcs8: &[u8],
) -> Result<Issuer<'static, KeyPair>, AuthorityError> {
    let pair = KeyPair::try_from(&PrivatePkcs8KeyDer::from(pkcs8))?;
    Ok(Issuer::from_ca_cert_der(certificate, pair)?)
}

fn purpose(certificate: &CertificateDer<'_>) -> String {
    format!("key of authority {}", weighbridge_store::fold::hex(&fingerprint(certificate)))
}

fn called(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn serial(random: RandomSource<'_>) -> SerialNumber {
    let mut bytes = [0; 16];
    random(&mut bytes);
    // Positive, and of one length.
    bytes[0] = bytes[0] & 0x3f | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn dated(params: &mut CertificateParams, from: UtcMillis, to: UtcMillis) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let after = |moment: UtcMillis| {
        let millis = moment.0.clamp(0, LATEST_MS).unsigned_abs();
        epoch + Duration::from_secs(millis / 1000)
    };
    params.not_before = after(from);
    params.not_after = after(to);
}

#[cfg(test)]
mod tests {
    use weighbridge_registry::OperatorKey;

    use super::*;
    use crate::random::fill;

    const NOW: UtcMillis = UtcMillis(1_772_438_400_000);
    const HOUR: Duration = Duration::from_secs(3600);

    fn hours(hours: u32) -> UtcMillis {
        NOW.plus(millis(HOUR * hours))
    }

    fn key_store(folder: &Path) -> KeyStore {
        KeyStore::at(folder, OperatorKey::generate([7; 32])).expect("a key store")
    }

    fn sign(
        authorities: &mut Authorities,
        lasts: Duration,
        now: UtcMillis,
    ) -> Result<Signed, AuthorityError> {
        let key = new_key(&mut fill);
        let pair = KeyPair::try_from(&key).expect("a key");
        let request = CertificateParams::default().serialize_request(&pair).expect("a request");
        authorities.agent(&"node1".parse().expect("a name"), request.der(), lasts, now, &mut fill)
    }

    fn opened(keys: &KeyStore) -> Authorities {
        Authorities::open_or_make(keys, NOW, &mut fill).expect("opens").0
    }

    #[test]
    fn what_leaves_stays_until_the_last_certificate_that_it_signed_can_no_longer_be_renewed() {
        let folder = tempfile::tempdir().expect("a folder");
        let keys = key_store(folder.path());
        let mut authorities = opened(&keys);
        // Certificates lasted for a hundred hours once, and a restart later last for one.
        sign(&mut authorities, HOUR * 100, NOW).expect("signs");
        let mut authorities = opened(&keys);
        sign(&mut authorities, HOUR, NOW).expect("signs");
        authorities.introduce(&keys, NOW, &mut fill).expect("introduces");
        authorities.activate(hours(1), HOUR, false).expect("activates");
        let until = |authorities: &mut Authorities| match authorities
            .retire(hours(3), HOUR, HOUR * 10, false)
            .expect_err("too early")
        {
            AuthorityError::TooEarly { earliest } => earliest,
            error => panic!("{error:?}"),
        };
        let earliest = until(&mut authorities);
        assert!(hours(110) <= earliest && earliest <= hours(110 + 13), "{earliest}");
        assert_eq!(until(&mut opened(&keys)), earliest, "it is in the file");

        // A file of before does not say how far was signed.
        let file = folder.path().join("authorities.json");
        let mut stored: serde_json::Value =
            serde_json::from_slice(&fs::read(&file).expect("there")).expect("JSON");
        for one in stored["authorities"].as_array_mut().expect("a list") {
            one.as_object_mut().expect("an authority").remove("signed_until");
        }
        fs::write(&file, stored.to_string()).expect("writable");
        let mut before = opened(&keys);
        assert_eq!(until(&mut before), hours(1 + 1 + 10));
        before.retire(hours(12), HOUR, HOUR * 10, false).expect("retires");
        assert_eq!(opened(&keys).infos().len(), 1);
    }

    #[test]
    fn an_authority_that_goes_takes_along_what_led_to_its_successor_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let keys = key_store(folder.path());
        let mut authorities = opened(&keys);
        authorities.introduce(&keys, NOW, &mut fill).expect("introduces");
        authorities.activate(NOW, HOUR, true).expect("activates");
        authorities.introduce(&keys, NOW, &mut fill).expect("introduces");
        authorities.retire(NOW, HOUR, HOUR, true).expect("retires");
        for authorities in [authorities, opened(&keys)] {
            let crossed: Vec<(Stage, bool)> =
                authorities.list.iter().map(|one| (one.stage, one.crossed.is_some())).collect();
            assert_eq!(crossed, [(Stage::Active, false), (Stage::Introduced, true)]);
        }
    }

    #[test]
    fn a_retirement_that_cannot_be_kept_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let keys = key_store(folder.path());
        let mut authorities = opened(&keys);
        authorities.introduce(&keys, NOW, &mut fill).expect("introduces");
        authorities.activate(NOW, HOUR, true).expect("activates");
        // Something lies where the new file would be written.
        let stands_in = folder.path().join("authorities.new");
        fs::create_dir(&stands_in).expect("makes");
        authorities.retire(NOW, HOUR, HOUR, true).expect_err("cannot be written");
        let crossed = authorities.list.iter().filter(|one| one.crossed.is_some()).count();
        assert_eq!((authorities.infos(), crossed), (opened(&keys).infos(), 1));
        fs::remove_dir(&stands_in).expect("removes");
        authorities.retire(NOW, HOUR, HOUR, true).expect("retires");
        assert_eq!(authorities.infos().len(), 1);
    }

    #[test]
    fn nothing_is_signed_for_agents_before_the_authority_begins() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut authorities = opened(&key_store(folder.path()));
        let error = sign(&mut authorities, HOUR, NOW.plus(-1_000)).expect_err("the clock is behind");
        assert!(matches!(error, AuthorityError::ClockBehind { .. }), "{error:?}");
        assert!(sign(&mut authorities, HOUR, NOW).is_ok());
    }
}
