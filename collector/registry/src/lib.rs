//! Who stands behind a principal: customers, their identity under lock, and the files that say so.
//!
//! Start with [`Party`], what is known of somebody; [`import`] and [`mod@format`], the files that it comes from and goes
//! to; and [`keys::KeyStore`], which seals it before it is stored anywhere.
//! What goes into the ledger is a [`SealedCustomer`]; it can be opened for as long as the party's data key
//! exists, and by nobody afterwards.
//!
//! What parties hold of each other is an [`Interest`]; [`ownership`] works out who stands behind whom, and [`group`]
//! which customers are one.
//!
//! Deliberately absent: matching against sanction lists, verifying what a customer claims, hiding the length of what is
//! sealed, and any clock or source of randomness: both are arguments.

pub mod accesses;
pub mod blind;
pub mod customer;
pub mod format;
pub mod group;
pub mod identity;
pub mod import;
pub mod interest;
pub mod keys;
pub mod ownership;
pub mod party;
pub mod places;
pub mod retention;
pub mod sealed;
pub mod statement;

pub use accesses::{AccessEntry, AccessKind, AccessLog};
pub use blind::{Blind, What};
pub use customer::{BadId, ControlGroupId, CustomerId, CustomerKind, UsPerson};
pub use group::{Decision, Group, Groups, Link};
pub use identity::{Access, BadAccess, Completeness, Filled, Identity, IdentityField, ReportField};
pub use import::{
    AgentRow, BadRecord, BadSelector, CustomerRow, Fault, ImportErrors, LEASE_COLUMNS, LeaseRow,
    LeaseSelector, Mapping, PartyRecord, PrincipalMapping, PublicKey, SHOWN_FAULTS, SlurmRow, Told,
    latest_access, lease_rows, parse_agents, parse_customers, parse_interests, parse_leases, parse_parties,
    parse_principals, parse_principals_for, parse_record, parse_records, parse_slurm, parse_statements,
    party_paths, read_accesses, write_interests, write_parties, write_records,
};
pub use interest::{Interest, InterestKind};
pub use keys::{KeyError, KeyStore, Locks, OperatorKey, RandomSource, SharedRecord};
pub use party::{Party, PartyId, Standing};
pub use retention::Hold;
pub use sealed::{BadSealedField, SealedCustomer, SealedField};
pub use statement::Statement;
