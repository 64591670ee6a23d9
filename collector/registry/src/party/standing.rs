//! How a party stands with the operator. It names nobody, so it is kept in clear, and outlives the erasure of who it
//! was.

use serde::{Deserialize, Serialize};
use weighbridge_meter::UtcMillis;

use super::PartyId;
use crate::UsPerson;

/// Whether it was found out who somebody is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verified {
    /// Nobody has tried.
    #[default]
    Unverified,
    /// Somebody tries.
    InProgress,
    /// It is who it says.
    Verified,
    /// It is not, or that could not be found out.
    Failed,
}

/// What the operator does about an account while it is in doubt who holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Remedy {
    /// Nothing.
    #[default]
    None,
    /// It is not opened.
    NotOpened,
    /// It may do less.
    Restricted,
    /// It is looked at more closely.
    Monitored,
    /// It is closed.
    Closed,
    /// Who was refused, or whose identity was misused, is being heard.
    Redress,
}

/// How closely a customer is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Risk {
    /// Customer due diligence.
    #[default]
    Standard,
    /// Enhanced due diligence.
    Enhanced,
}

/// How a party stands with the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// Whether it has an account: else it only stands behind who has one.
    #[serde(default, skip_serializing_if = "is_false")]
    pub no_account: bool,
    /// The reseller whose customer it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reseller: Option<PartyId>,
    /// Whether it was found out who it is.
    #[serde(default)]
    pub verified: Verified,
    /// What is done about it.
    #[serde(default)]
    pub remedy: Remedy,
    /// How closely it is looked at.
    #[serde(default)]
    pub risk: Risk,
    /// When the account was opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened: Option<UtcMillis>,
    /// When it was closed, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<UtcMillis>,
    /// When it was last used, as far as was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_access: Option<UtcMillis>,
    /// Discrepancies that nobody has resolved.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub open_discrepancies: u32,
    /// What a file last said of whether it is a US person, so that the same word again is known to be none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told_by_file: Option<UsPerson>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}
