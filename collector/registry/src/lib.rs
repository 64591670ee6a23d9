//! Who stands behind a principal: customers, their identity under lock, and the files that say so.
//!
//! Start with [`import`], which reads the four files an operator hands over, all of a file or none of it,
//! and [`keys::KeyStore`], which seals what identifies a person before it is stored anywhere.
//! What goes into the ledger is a [`SealedCustomer`]; it can be opened for as long as the customer's data key
//! exists, and by nobody afterwards.
//!
//! [`ownership`] works out who stands behind whom; nothing feeds it yet, and a control group is only a name here.
//!
//! Deliberately absent: matching against
//! sanction lists, verification of what a customer claims, changing the operator's key, hiding the length of
//! what is sealed, and any clock or source of randomness: both are arguments.

pub mod customer;
pub mod format;
pub mod identity;
pub mod import;
pub mod interest;
pub mod keys;
pub mod ownership;
pub mod party;
pub mod sealed;

pub use customer::{BadId, ControlGroupId, CustomerId, CustomerKind, UsPerson};
pub use identity::{Access, BadAccess, Completeness, Filled, Identity, IdentityField, ReportField};
pub use import::{
    AgentRow, BadSelector, CustomerRow, Fault, ImportErrors, LEASE_COLUMNS, LeaseRow, LeaseSelector,
    PrincipalMapping, PublicKey, SHOWN_FAULTS, SlurmRow, lease_rows, parse_agents, parse_customers,
    parse_leases, parse_principals, parse_slurm,
};
pub use interest::{Interest, InterestKind};
pub use keys::{KeyError, KeyStore, OperatorKey, RandomSource};
pub use party::{Party, PartyId, Standing};
pub use sealed::{BadSealedField, SealedCustomer, SealedField};
