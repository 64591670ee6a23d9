//! Statements: recorded as they are, or under the key of the customer that they are about.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use weighbridge_registry::{
    CustomerId, PartyId, SealedField,
    statement::{Kind, Statement},
};
use weighbridge_store::{Fact, ledger::CommitError};

use super::{By, How, PartyError, said};
use crate::{
    app::{App, StartError, record},
    import::{Imported, LeftOut},
    judge::fact,
    random,
};

/// A statement as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// In clear.
    Clear(Statement),
    /// Under the key of the customer that it is about.
    Sealed {
        /// Which kind.
        kind: Kind,
        /// Its id.
        id: String,
        /// Whose.
        customer: CustomerId,
        /// What it says.
        sealed: SealedField,
    },
}

/// As the ledger has it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    statement: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    cells: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    customer: Option<CustomerId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<SealedField>,
}

impl Kept {
    /// Which kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Clear(statement) => statement.kind(),
            Self::Sealed { kind, .. } => *kind,
        }
    }

    /// The party that it is about, if it is about one.
    pub fn about(&self) -> Option<&PartyId> {
        match self {
            Self::Clear(statement) => statement.about(),
            Self::Sealed { customer, .. } => Some(customer),
        }
    }

    /// Its id, if it is an attestation.
    fn attestation(&self) -> Option<&str> {
        match self {
            Self::Clear(Statement::Attestation(one)) => Some(one.id.as_str()),
            _ => None,
        }
    }

    fn body(&self) -> Body {
        let statement = self.kind().as_str().to_owned();
        match self {
            Self::Clear(one) => Body { statement, cells: cells(one), id: None, customer: None, sealed: None },
            Self::Sealed { id, customer, sealed, .. } => Body {
                statement,
                cells: BTreeMap::new(),
                id: Some(id.clone()),
                customer: Some(customer.clone()),
                sealed: Some(sealed.clone()),
            },
        }
    }

    fn from_body(body: Body) -> Option<Self> {
        let kind = Kind::from_name(&body.statement)?;
        match (body.id, body.customer, body.sealed) {
            (Some(id), Some(customer), Some(sealed)) => Some(Self::Sealed { kind, id, customer, sealed }),
            (None, None, None) => Statement::from_cells(kind, &body.cells).ok().map(Self::Clear),
            _ => None,
        }
    }

    pub(super) fn read(row: weighbridge_store::RecordRow) -> Result<Self, StartError> {
        let body: Body = super::read(record::STATEMENT, row.clone())?;
        Self::from_body(body).ok_or_else(|| {
            let error = <serde_json::Error as serde::de::Error>::custom("it is no statement of a known kind");
            crate::app::unreadable(record::STATEMENT, &row, error)
        })
    }
}

fn cells(statement: &Statement) -> BTreeMap<String, String> {
    statement.cells().into_iter().map(|(field, text)| (field.to_owned(), text)).collect()
}

impl App {
    /// Every statement of a kind as it is kept, in order of ids.
    pub fn statements(&self, kind: Kind) -> Vec<Kept> {
        self.parties(|known| known.statements.values().filter(|one| one.kind() == kind).cloned().collect())
    }

    /// Every statement about a party, as it is kept.
    pub fn statements_about(&self, party: &PartyId) -> Vec<Kept> {
        self.parties(|known| {
            known.statements.values().filter(|one| one.about() == Some(party)).cloned().collect()
        })
    }

    /// Records statements that are new or say something new: all of them, or none.
    pub async fn put_statements(&self, told: Vec<Statement>, how: How) -> Result<Imported, PartyError> {
        let app = self.clone();
        let done = tokio::spawn(async move {
            let _one_at_a_time = app.writing.lock().await;
            app.statements_told(told, how).await
        });
        done.await.unwrap_or(Err(PartyError::Commit(CommitError::Unwritable)))
    }

    /// The same for who already is the only one to write.
    pub(crate) async fn statements_told(
        &self,
        told: Vec<Statement>,
        how: How,
    ) -> Result<Imported, PartyError> {
        let known = self.customers();
        let rows = told.len();
        let unknown = told.iter().filter_map(|one| Some((one, one.about()?)));
        let bad: Vec<String> = unknown
            .filter(|(_, party)| !known.contains_key(party.as_str()))
            .map(|(one, party)| format!("{}: party {party} is not known, import customers first", one.key()))
            .collect();
        let mut bad = bad;
        bad.extend(self.without_program(&told));
        if !bad.is_empty() {
            return Err(PartyError::Bad(bad));
        }
        let mut new = Vec::new();
        for statement in told {
            let key = statement.key();
            let before = self.parties(|known| known.statements.get(&key).cloned());
            let same = match &before {
                Some(before) => self.opened(before)? == statement,
                None => false,
            };
            if !same {
                new.push((key, statement));
            }
        }
        let recorded = new.len();
        if how == How::Record && recorded > 0 {
            let kept = new.into_iter().map(|(key, statement)| Ok((key, self.kept(statement)?)));
            let new = kept.collect::<Result<Vec<_>, PartyError>>()?;
            let mut facts: Vec<Fact> =
                new.iter().map(|(key, kept)| fact(record::STATEMENT, key, &kept.body())).collect();
            let attested: Vec<String> =
                new.iter().filter_map(|(_, kept)| kept.attestation().map(str::to_owned)).collect();
            let mut figures = Vec::new();
            if !attested.is_empty() {
                // What was attested is what was so then, and not what would be counted later.
                let counted = self.blocking(App::certification)?;
                let mut counted = serde_json::to_value(counted).expect("plain data with string keys");
                counted.as_object_mut().map(|counted| counted.remove("attestation"));
                figures.extend(attested.into_iter().map(|id| (id, counted.clone())));
            }
            facts.extend(figures.iter().map(|(id, counted)| fact(record::ATTESTED, id, counted)));
            self.record(facts).await?;
            self.parties(|known| {
                known.statements.extend(new);
                known.attested.extend(figures);
            });
        }
        Ok(Imported { rows, recorded, left_out: LeftOut::new() })
    }

    /// Attestations of a version of the program that nobody told of.
    fn without_program(&self, told: &[Statement]) -> Vec<String> {
        let coming = told.iter().filter_map(|one| match one {
            Statement::Program(program) => Some(program.id.as_str().to_owned()),
            _ => None,
        });
        let coming: BTreeSet<String> = coming.collect();
        let known = |version: &str| {
            let key = format!("{} {version}", Kind::Program.as_str());
            coming.contains(version) || self.parties(|known| known.statements.contains_key(&key))
        };
        let unknown = told.iter().filter_map(|one| match one {
            Statement::Attestation(one) if !known(one.program.as_str()) => Some(format!(
                "attestation {}: program {} is not known, import programs first",
                one.id.as_str(),
                one.program.as_str()
            )),
            _ => None,
        });
        unknown.collect()
    }

    fn kept(&self, statement: Statement) -> Result<Kept, PartyError> {
        let kind = statement.kind();
        let (true, Some(customer)) = (kind.is_sealed(), statement.about()) else {
            return Ok(Kept::Clear(statement));
        };
        let text = zeroize::Zeroizing::new(
            serde_json::to_vec(&cells(&statement)).expect("texts under texts can always be written"),
        );
        let (id, customer) = (statement.id().to_owned(), customer.clone());
        let sealed = self.keys.seal_record(&customer, &statement.key(), &text, &mut random::fill)?;
        Ok(Kept::Sealed { kind, id, customer, sealed })
    }

    /// What it says, for who may know.
    pub(crate) fn opened(&self, kept: &Kept) -> Result<Statement, PartyError> {
        match kept {
            Kept::Clear(statement) => Ok(statement.clone()),
            Kept::Sealed { kind, id, customer, sealed } => {
                let key = format!("{} {id}", kind.as_str());
                let text = self.keys.open_record(customer, &key, sealed)?;
                let cells: Option<BTreeMap<String, String>> = serde_json::from_slice(&text).ok();
                let read = cells.and_then(|cells| Statement::from_cells(*kind, &cells).ok());
                read.ok_or_else(|| {
                    PartyError::Keys(weighbridge_registry::KeyError::RecordDamaged {
                        subject: customer.clone(),
                        what: key,
                    })
                })
            }
        }
    }

    /// Opens a statement for somebody to look at, after that was recorded.
    pub async fn reveal_statement(&self, kind: Kind, id: &str, by: &By) -> Result<Statement, PartyError> {
        said(by)?;
        let key = format!("{} {id}", kind.as_str());
        let kept = self.parties(|known| known.statements.get(&key).cloned());
        let kept = kept.ok_or(PartyError::NoStatement(key))?;
        let statement = self.opened(&kept)?;
        if let Kept::Sealed { customer, .. } = &kept {
            let look = serde_json::json!({
                "act": "identity_opened", "customer": customer, "what": statement.key(),
                "actor": by.actor, "reason": by.reason,
            });
            self.record(vec![fact(record::AUDIT, customer.as_str(), &look)]).await?;
        }
        Ok(statement)
    }
}
