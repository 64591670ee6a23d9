//! Who may send: join tokens, enrolments and the deny list, all of them facts in the ledger.
//!
//! A token is made by the operator for one agent and used once. Its use records the agent with the key that signs
//! its batches, and how far it is to be trusted at most. A certificate is then signed and renewed without a
//! record of its own: it says nothing that the ledger does not.
//!
//! A renewal needs three things: the connection under the certificate before, which may have ended a while ago;
//! a signature by the key that is enrolled; and not to be on the deny list.

pub mod command;
pub(crate) mod routes;

use std::{
    collections::BTreeMap,
    sync::{PoisonError, RwLock},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use weighbridge_meter::{AgentId, Trust as Trustworthiness, UtcMillis};
use weighbridge_store::{
    Fact, RecordRow, SqliteStore, StoreError, UsageStore, entry::AgentFact, fold::hex, ledger::CommitError,
    verify::public_key,
};
use weighbridge_wire::{
    VerifyingKey,
    enrol::{
        Issued, JoinRequest, JoinToken, RefusedCode, RenewRequest, join_proof_holds, renew_proof_holds,
        secret_hash,
    },
};

use crate::{
    app::{App, StartError, record},
    random,
    tls::{Step, TrustError, authority::AuthorityInfo, peer::PeerAgent},
};

/// The key of records of the authorities.
const ROLLOVER: &str = "rollover";

/// A token lasts at most so long.
const LONGEST_TOKEN: Duration = Duration::from_secs(7 * 86_400);

/// What the ledger says about tokens and the deny list.
#[derive(Debug, Default)]
pub struct Enrolment {
    tokens: RwLock<BTreeMap<String, Token>>,
    denied: RwLock<BTreeMap<AgentId, Denied>>,
    /// The deny list changes by one at a time: what is in memory and the ledger's last word are the same. Not the lock
    /// of other writers, who wait for the sums.
    denying: tokio::sync::Mutex<()>,
}

/// A token that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    made: TokenMade,
    used: Option<TokenUsed>,
    expired: bool,
}

/// What becomes of a token, as recorded under its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum TokenEvent {
    Made(TokenMade),
    Used(TokenUsed),
    Expired {},
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct TokenMade {
    agent: AgentId,
    host: String,
    site: String,
    fabric: String,
    max_trust: Trustworthiness,
    secret_sha256: String,
    expires: UtcMillis,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct TokenUsed {
    public_key: String,
}

/// An entry of the deny list, as recorded under the agent's id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum DenialEvent {
    Denied { reason: String },
    Allowed {},
}

/// Why an agent is shut out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// In the operator's words.
    pub reason: String,
    /// Since when.
    pub since: UtcMillis,
}

/// What an operator wants done; the same through the command and the API.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "snake_case")]
pub enum Act {
    /// Makes a join token.
    Token {
        /// For whom.
        agent: AgentId,
        /// On which host.
        host: String,
        /// Where that is.
        site: String,
        /// What joins its accelerators to others.
        fabric: String,
        /// How far it is to be trusted at most.
        max_trust: Trustworthiness,
        /// How long it may be used, in seconds.
        valid_s: u64,
    },
    /// Shuts an agent out.
    Deny {
        /// Which.
        agent: AgentId,
        /// Why.
        reason: String,
    },
    /// Lets it in again.
    Allow {
        /// Which.
        agent: AgentId,
    },
    /// Lists tokens that can still be used, and the deny list.
    List {},
    /// Lists the authorities.
    Authorities {},
    /// Takes a step of a rollover.
    Step {
        /// Which.
        step: Step,
        /// Though agents may be lost.
        force: bool,
    },
}

/// What came of an act.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Acted {
    /// For people, line by line.
    pub said: Vec<String>,
    /// A join token: a secret, shown once.
    pub token: Option<String>,
}

/// An act was not done.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// It makes no sense as things stand.
    #[error("{0}")]
    Unusable(String),
    /// The authority.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The ledger.
    #[error("the ledger took nothing")]
    Commit(#[from] CommitError),
}

/// Why no certificate is issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub code: RefusedCode,
    /// For people.
    pub detail: String,
}

fn refusal(code: RefusedCode, detail: impl ToString) -> Refusal {
    Refusal { code, detail: detail.to_string() }
}

impl Enrolment {
    /// As the ledger has it.
    pub(crate) async fn read(store: &SqliteStore) -> Result<Self, StartError> {
        let enrolment = Self::default();
        for row in store.records(record::JOIN_TOKEN).await? {
            let event = read(record::JOIN_TOKEN, &row)?;
            enrolment.token(&row.key, event);
        }
        for row in store.records(record::DENIAL).await? {
            let agent = row.key.parse().map_err(|error| unreadable(record::DENIAL, &row, error))?;
            let event = read(record::DENIAL, &row)?;
            enrolment.denial(agent, event, row.received);
        }
        Ok(enrolment)
    }

    fn token(&self, id: &str, event: TokenEvent) {
        let mut tokens = self.tokens.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            TokenEvent::Made(made) => {
                tokens.entry(id.to_owned()).or_insert(Token { made, used: None, expired: false });
            }
            TokenEvent::Used(used) => {
                if let Some(token) = tokens.get_mut(id) {
                    token.used = Some(used);
                }
            }
            TokenEvent::Expired {} => {
                if let Some(token) = tokens.get_mut(id) {
                    token.expired = true;
                }
            }
        }
    }

    fn denial(&self, agent: AgentId, event: DenialEvent, at: UtcMillis) {
        let mut denied = self.denied.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            DenialEvent::Denied { reason } => {
                denied.insert(agent, Denied { reason, since: at });
            }
            DenialEvent::Allowed {} => {
                denied.remove(&agent);
            }
        }
    }

    fn find(&self, id: &str) -> Option<Token> {
        self.tokens.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Why this agent is shut out, if it is.
    pub fn denied(&self, agent: &AgentId) -> Option<Denied> {
        self.denied.read().unwrap_or_else(PoisonError::into_inner).get(agent).cloned()
    }

    /// How many agents are shut out.
    pub fn denied_count(&self) -> usize {
        self.denied.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}

fn read<T: for<'a> Deserialize<'a>>(kind: &'static str, row: &RecordRow) -> Result<T, StartError> {
    serde_json::from_value(row.body.clone()).map_err(|error| unreadable(kind, row, error))
}

fn unreadable(kind: &'static str, row: &RecordRow, problem: impl ToString) -> StartError {
    StartError::Record { index: row.index, kind, key: row.key.clone(), problem: problem.to_string() }
}

fn fact(kind: &str, key: &str, body: &impl Serialize) -> Fact {
    let body = serde_json::to_value(body).expect("plain data with string keys");
    Fact::Record { kind: kind.into(), key: key.into(), body }
}

impl App {
    /// Does what an operator wants done. Once begun it goes to its end, even if whoever asked for it goes away.
    pub async fn act(&self, act: Act) -> Result<Acted, ActError> {
        let app = self.clone();
        let acted = tokio::spawn(async move { app.act_whole(act).await });
        acted.await.unwrap_or(Err(ActError::Commit(CommitError::Unwritable)))
    }

    async fn act_whole(&self, act: Act) -> Result<Acted, ActError> {
        match act {
            Act::Token { agent, host, site, fabric, max_trust, valid_s } => {
                let _one_at_a_time = self.writing.lock().await;
                self.make_token(agent, host, site, fabric, max_trust, valid_s).await
            }
            Act::Deny { agent, reason } => {
                if reason.trim().is_empty() {
                    return Err(ActError::Unusable(
                        "reason: blank, expected why the agent is shut out".into(),
                    ));
                }
                self.deny(&agent, reason).await?;
                let known = self.shared.with(|state| state.agents.contains_key(&agent));
                let mut said = vec![format!("agent {agent} is shut out")];
                if !known {
                    said.push(format!("no agent {agent} was ever enrolled: check the name"));
                }
                Ok(Acted { said, token: None })
            }
            Act::Allow { agent } => {
                self.allow(&agent).await?;
                Ok(Acted { said: vec![format!("agent {agent} is let in again")], token: None })
            }
            Act::List {} => Ok(Acted { said: self.enrolment_lines(), token: None }),
            Act::Authorities {} => {
                Ok(Acted { said: authority_lines(&self.trust.authorities()?), token: None })
            }
            Act::Step { step, force } => {
                let _one_at_a_time = self.writing.lock().await;
                self.trust.step(step, force, &self.keys)?;
                let infos = self.trust.authorities()?;
                let body = serde_json::json!({ "step": step, "forced": force, "authorities": infos });
                self.record(vec![fact(record::AUTHORITY, ROLLOVER, &body)]).await?;
                tracing::warn!(?step, force, "the authorities have changed");
                Ok(Acted { said: authority_lines(&infos), token: None })
            }
        }
    }

    /// The authorities, where they are not what the ledger says last: the keys change first, and whoever took a step
    /// may have died before it was recorded.
    pub(crate) async fn unrecorded_step(&self) -> Result<Option<Fact>, StoreError> {
        // Without an authority of its own there are no steps.
        let Ok(infos) = self.trust.authorities() else { return Ok(None) };
        let body = serde_json::json!({ "step": null, "authorities": infos });
        let recorded = self.store.records(record::AUTHORITY).await?;
        let known = match recorded.last() {
            Some(last) => last.body["authorities"] == body["authorities"],
            // The first one is made by the start itself.
            None => infos.len() == 1,
        };
        Ok((!known).then(|| fact(record::AUTHORITY, ROLLOVER, &body)))
    }

    async fn make_token(
        &self,
        agent: AgentId,
        host: String,
        site: String,
        fabric: String,
        max_trust: Trustworthiness,
        valid_s: u64,
    ) -> Result<Acted, ActError> {
        for (what, text, longest) in [("host", &host, 253), ("site", &site, 96), ("fabric", &fabric, 96)] {
            let fits =
                (1..=longest).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
            if !fits {
                let expected = format!("1 to {longest} printable characters without blanks");
                return Err(ActError::Unusable(format!("{what}: {text:?} is not {expected}")));
            }
        }
        if !(1..=LONGEST_TOKEN.as_secs()).contains(&valid_s) {
            return Err(ActError::Unusable(format!("valid: {valid_s} s is not from 1 s to 168h")));
        }
        if let Some(denied) = self.enrolment.denied(&agent) {
            let why = denied.reason;
            return Err(ActError::Unusable(format!("agent {agent} is shut out ({why}): allow it first")));
        }
        let authority = self.trust.fingerprint()?;
        let token = JoinToken { id: random::bytes(), secret: random::bytes(), authority };
        let expires = self.now().plus(i64::try_from(valid_s * 1000).unwrap_or(i64::MAX));
        let made = TokenMade {
            agent: agent.clone(),
            host,
            site,
            fabric,
            max_trust,
            secret_sha256: hex(&token.secret_hash()),
            expires,
        };
        self.token_event(&hex(&token.id), TokenEvent::Made(made), Vec::new()).await?;
        let said =
            vec![format!("a token for agent {agent}, trusted as {max_trust} at most, until {expires}")];
        Ok(Acted { said, token: Some(token.to_string()) })
    }

    async fn token_event(
        &self,
        id: &str,
        event: TokenEvent,
        mut facts: Vec<Fact>,
    ) -> Result<(), CommitError> {
        // Last, as a power cut may keep the first of a group alone: a token that is used has let its agent in.
        facts.push(fact(record::JOIN_TOKEN, id, &event));
        self.record(facts).await?;
        self.enrolment.token(id, event);
        Ok(())
    }

    /// Shuts an agent out: at once, and in the ledger before anybody is told. Neither waits for the sums. Where the
    /// ledger takes nothing the agent stays shut out until the collector ends, and whoever asked hears of it.
    async fn deny(&self, agent: &AgentId, reason: String) -> Result<(), CommitError> {
        let event = DenialEvent::Denied { reason };
        let since = self.now();
        self.enrolment.denial(agent.clone(), event.clone(), since);
        tracing::warn!(%agent, ?event, "the deny list has changed");
        let _one_at_a_time = self.enrolment.denying.lock().await;
        // Again, as somebody may have let it in just now, and this is the later word.
        self.enrolment.denial(agent.clone(), event.clone(), since);
        let recorded = self.ledger.record(since, vec![fact(record::DENIAL, agent.as_str(), &event)]).await;
        if recorded.is_err() {
            tracing::error!(%agent, "an agent is shut out only until the collector ends: the ledger took no record of it");
        }
        recorded.map(drop)
    }

    /// Lets an agent in again, once that is in the ledger.
    async fn allow(&self, agent: &AgentId) -> Result<(), ActError> {
        let _one_at_a_time = self.enrolment.denying.lock().await;
        if self.enrolment.denied(agent).is_none() {
            return Err(ActError::Unusable(format!("agent {agent} is not shut out")));
        }
        let event = DenialEvent::Allowed {};
        let now = self.now();
        self.ledger.record(now, vec![fact(record::DENIAL, agent.as_str(), &event)]).await?;
        tracing::warn!(%agent, ?event, "the deny list has changed");
        self.enrolment.denial(agent.clone(), event, now);
        Ok(())
    }

    fn enrolment_lines(&self) -> Vec<String> {
        let now = self.now();
        let mut said = Vec::new();
        {
            let tokens = self.enrolment.tokens.read().unwrap_or_else(PoisonError::into_inner);
            for (id, token) in &*tokens {
                let TokenMade { agent, host, expires, max_trust, .. } = &token.made;
                if token.used.is_none() && now < *expires {
                    said.push(format!(
                        "token {id}: agent {agent} on host {host}, as {max_trust} at most, until {expires}"
                    ));
                }
            }
        }
        let denied = self.enrolment.denied.read().unwrap_or_else(PoisonError::into_inner);
        for (agent, Denied { reason, since }) in &*denied {
            said.push(format!("denied {agent}: since {since}: {reason}"));
        }
        if said.is_empty() {
            said.push("no token waits, and nobody is shut out".into());
        }
        said
    }

    /// Exchanges a token for a certificate. Once begun it goes to its end.
    pub async fn join(&self, asked: JoinRequest) -> Result<Issued, Refusal> {
        let app = self.clone();
        let joined = tokio::spawn(async move { app.join_whole(&asked).await }).await;
        let joined = joined.unwrap_or_else(|_| {
            Err(refusal(RefusedCode::NotAvailable, "the collector could not finish this"))
        });
        self.metrics.enrolment(joined.as_ref().err().map(|refusal| refusal.code));
        joined
    }

    async fn join_whole(&self, asked: &JoinRequest) -> Result<Issued, Refusal> {
        let bad = |what| refusal(RefusedCode::BadRequest, what);
        let fixed = |text: &str| BASE64_STANDARD.decode(text).ok();
        let id: [u8; 8] = fixed(&asked.token)
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| bad("the token's id is not 8 bytes in base64"))?;
        let secret: [u8; 32] = fixed(&asked.secret)
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| bad("the token's secret is not 32 bytes in base64"))?;
        let request = fixed(&asked.request).ok_or_else(|| bad("the request is not base64"))?;
        let key = public_key(&asked.public_key).ok_or_else(|| bad("the public key is none"))?;
        if !join_proof_holds(&key, &id, &asked.agent, &request, &asked.proof) {
            return Err(bad("the proof of the signing key does not hold"));
        }

        let name = hex(&id);
        // Who has no secret does not get as far as the lock.
        self.known_token(&name, &id, &secret)?;
        let _one_at_a_time = self.writing.lock().await;
        let token = self.known_token(&name, &id, &secret)?;
        let now = self.now();
        let made = &token.made;
        if made.agent != asked.agent {
            let detail =
                format!("the token is for agent {}, the host says it is {}", made.agent, asked.agent);
            return Err(refusal(RefusedCode::OtherAgent, detail));
        }
        // What was over once stays over, also under a clock that was set back.
        if token.expired || made.expires <= now {
            let detail = format!("the token ended at {}: have another one made", made.expires);
            return Err(refusal(RefusedCode::TokenExpired, detail));
        }
        if let Some(denied) = self.enrolment.denied(&made.agent) {
            let detail = format!("agent {} is shut out: {}", made.agent, denied.reason);
            return Err(refusal(RefusedCode::Denied, detail));
        }
        match &token.used {
            // The same host asks again because the answer was lost: it has the key that was recorded.
            Some(used) if used.public_key == asked.public_key => {
                self.still_enrolled(made, &asked.public_key, now).await?;
            }
            Some(_) => {
                tracing::error!(agent = %made.agent, token = name, "a join token was used twice, with two keys: someone must look");
                let detail = "the token was used already, with another key: if that was not this host, \
                              shut the agent out and have another token made";
                return Err(refusal(RefusedCode::TokenUsed, detail));
            }
            None => {
                // Before anything is recorded, so that a request that cannot be signed costs no token.
                self.trust.sign(&made.agent, &request).map_err(|error| unsignable(&error))?;
                let event = TokenEvent::Used(TokenUsed { public_key: asked.public_key.clone() });
                let facts = self.enrolled_facts(made, &asked.public_key, now)?;
                self.token_event(&name, event, facts)
                    .await
                    .map_err(|error| refusal(RefusedCode::NotAvailable, error))?;
                self.learn_agents();
                tracing::info!(agent = %made.agent, host = made.host, "an agent was enrolled");
            }
        }
        self.issue(&made.agent, &made.host, &request)
    }

    /// Sees to it that the key that a token was used with is one that the agent may sign with.
    async fn still_enrolled(&self, made: &TokenMade, key: &str, now: UtcMillis) -> Result<(), Refusal> {
        let known = self.shared.with(|state| {
            let facts = state.agents.get(&made.agent).into_iter().flatten();
            facts.rev().find(|fact| fact.public_key == key).map(|fact| fact.valid_to)
        });
        match known {
            Some(Some(end)) if end <= now => {
                let detail =
                    format!("the key that joined with this token ended at {end}: have another token made");
                Err(refusal(RefusedCode::NotEnrolled, detail))
            }
            Some(_) => Ok(()),
            // A ledger in which the use of the token is, and what followed from it is not.
            None => {
                let facts = self.enrolled_facts(made, key, now)?;
                self.record(facts).await.map_err(|error| refusal(RefusedCode::NotAvailable, error))?;
                self.learn_agents();
                Ok(())
            }
        }
    }

    fn known_token(&self, name: &str, id: &[u8; 8], secret: &[u8; 32]) -> Result<Token, Refusal> {
        let token = self.enrolment.find(name);
        let known = token.filter(|token| hex(&secret_hash(id, secret)) == token.made.secret_sha256);
        known.ok_or_else(|| refusal(RefusedCode::TokenUnknown, "this collector never made this token"))
    }

    /// The agent with its key, and the end of its keys before: a host that joins anew is one that was made anew.
    fn enrolled_facts(&self, made: &TokenMade, key: &str, now: UtcMillis) -> Result<Vec<Fact>, Refusal> {
        self.shared.with(|state| {
            let others = state.agents.iter().filter(|(agent, _)| **agent != made.agent);
            if others.flat_map(|(_, facts)| facts).any(|fact| fact.public_key == key) {
                let detail = "the signing key is another agent's: give each agent a key file of its own";
                return Err(refusal(RefusedCode::BadRequest, detail));
            }
            let before = state.agents.get(&made.agent).into_iter().flatten();
            let ended = before
                .filter(|fact| fact.public_key != key && fact.valid_to.is_none_or(|end| now < end))
                .map(|fact| {
                    let valid_from = fact.valid_from.min(now.plus(-1));
                    Fact::Agent(AgentFact { valid_from, valid_to: Some(now), ..fact.clone() })
                });
            let mut facts: Vec<Fact> = ended.collect();
            facts.push(Fact::Agent(AgentFact {
                agent: made.agent.clone(),
                host: made.host.clone(),
                site: made.site.clone(),
                fabric: made.fabric.clone(),
                public_key: key.to_owned(),
                // A day before, so that a collector whose clock is set back still knows it.
                valid_from: now.plus(-UtcMillis::DAY),
                valid_to: None,
                max_trust: made.max_trust,
            }));
            Ok(facts)
        })
    }

    /// Renews a certificate.
    pub fn renew(&self, peer: Option<&PeerAgent>, asked: &RenewRequest) -> Result<Issued, Refusal> {
        let renewed = self.renewed(peer, asked);
        self.metrics.renewal(renewed.as_ref().err().map(|refusal| refusal.code));
        renewed
    }

    fn renewed(&self, peer: Option<&PeerAgent>, asked: &RenewRequest) -> Result<Issued, Refusal> {
        let peer = peer.ok_or_else(|| {
            let detail = "this connection is under no certificate that names an agent: join with a token";
            refusal(RefusedCode::NoCertificate, detail)
        })?;
        let agent = &peer.agent;
        if let Some(denied) = self.enrolment.denied(agent) {
            self.metrics.not_admitted("denied");
            return Err(refusal(
                RefusedCode::Denied,
                format!("agent {agent} is shut out: {}", denied.reason),
            ));
        }
        let grace = i64::try_from(self.trust.grace().as_millis()).unwrap_or(i64::MAX);
        if peer.not_after.plus(grace) < self.now() {
            let detail =
                format!("the certificate ended at {}, too long ago: join with a token", peer.not_after);
            return Err(refusal(RefusedCode::NoCertificate, detail));
        }
        let request = BASE64_STANDARD
            .decode(&asked.request)
            .map_err(|_| refusal(RefusedCode::BadRequest, "the request is not base64"))?;
        let enrolled = self.keys_of(agent);
        if enrolled.is_empty() {
            let detail = format!("agent {agent} is not enrolled, or no longer");
            return Err(refusal(RefusedCode::NotEnrolled, detail));
        }
        let signed =
            |(_, key): &&(AgentFact, VerifyingKey)| renew_proof_holds(key, agent, &request, &asked.proof);
        let Some((fact, _)) = enrolled.iter().find(signed) else {
            let detail = format!("the request is not signed by a key of agent {agent} that is valid now");
            return Err(refusal(RefusedCode::BadRequest, detail));
        };
        self.issue(agent, &fact.host, &request)
    }

    fn issue(&self, agent: &AgentId, host: &str, request: &[u8]) -> Result<Issued, Refusal> {
        let signed = self.trust.sign(agent, request).map_err(|error| unsignable(&error))?;
        let roots = self.trust.roots().map_err(|error| unsignable(&error))?;
        Ok(Issued {
            agent: agent.clone(),
            host: host.to_owned(),
            certificates: vec![BASE64_STANDARD.encode(&signed.certificate)],
            authorities: roots.iter().map(|der| BASE64_STANDARD.encode(der)).collect(),
            not_before: signed.looked.not_before,
            not_after: signed.looked.not_after,
            now: self.now(),
        })
    }

    /// Records tokens that nobody used in time.
    pub async fn expire_tokens(&self) -> Result<(), CommitError> {
        let now = self.now();
        let over = || -> Vec<String> {
            let tokens = self.enrolment.tokens.read().unwrap_or_else(PoisonError::into_inner);
            let over = |token: &Token| token.used.is_none() && !token.expired && token.made.expires <= now;
            tokens.iter().filter(|(_, token)| over(token)).map(|(id, _)| id.clone()).collect()
        };
        if over().is_empty() {
            return Ok(());
        }
        let _one_at_a_time = self.writing.lock().await;
        // One of them may have been used while others wrote.
        for id in over() {
            self.token_event(&id, TokenEvent::Expired {}, Vec::new()).await?;
        }
        Ok(())
    }

    /// Keeps trust fresh until told to stop: the server's certificate, changed files, expired tokens.
    pub async fn keep_trust(self, stop: tokio_util::sync::CancellationToken) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut failed = false;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            match self.trust.tick() {
                Ok(renewed) => {
                    if renewed {
                        tracing::info!(until = ?self.trust.server_until().map(|until| until.to_string()), "the server has another certificate");
                    }
                    failed = false;
                }
                Err(error) => {
                    // Said once, not every second: what was there before stays in use.
                    if !failed {
                        let problem = weighbridge_store::verify::chain_of(&error);
                        tracing::error!(problem, "the server's certificate could not be renewed");
                    }
                    failed = true;
                }
            }
            if let Err(error) = self.expire_tokens().await {
                tracing::warn!(
                    problem = weighbridge_store::verify::chain_of(&error),
                    "the end of a join token could not be recorded"
                );
            }
        }
    }
}

fn unsignable(error: &TrustError) -> Refusal {
    let code = match error {
        TrustError::NotHere(_) => RefusedCode::NotIssuedHere,
        TrustError::Authority(crate::tls::authority::AuthorityError::Sign(_)) => RefusedCode::BadRequest,
        _ => RefusedCode::NotAvailable,
    };
    refusal(code, weighbridge_store::verify::chain_of(error))
}

fn authority_lines(infos: &[AuthorityInfo]) -> Vec<String> {
    let line = |info: &AuthorityInfo| {
        let AuthorityInfo { fingerprint, stage, since, until } = info;
        let stage = serde_json::to_value(stage).unwrap_or_default();
        format!("{fingerprint}  {}  since {since}, ends {until}", stage.as_str().unwrap_or_default())
    };
    infos.iter().map(line).collect()
}
