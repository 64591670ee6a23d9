//! Which trouble with a database only a new one ends.

use sqlx::migrate::MigrateError;

use crate::StoreError;

impl StoreError {
    /// Why these sums can only be thrown away and folded anew: `damaged` or `schema`. `None` where the same file
    /// may do later, as when the disk is full.
    pub fn unfit(&self) -> Option<&'static str> {
        match self {
            Self::Nonsense { .. } | Self::Hole { .. } => Some("damaged"),
            Self::Unavailable(error) => unfit(error),
        }
    }
}

fn unfit(error: &sqlx::Error) -> Option<&'static str> {
    match error {
        sqlx::Error::Database(error) => {
            const ERROR: u32 = 1;
            const CORRUPT: u32 = 11;
            const NOT_A_DATABASE: u32 = 26;
            let code: u32 = error.code()?.parse().ok()?;
            // The low byte is the kind, the rest its details.
            match code & 0xff {
                CORRUPT | NOT_A_DATABASE => Some("damaged"),
                ERROR if error.message().contains("no such") => Some("damaged"),
                _ => None,
            }
        }
        sqlx::Error::Migrate(error) => match &**error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => unfit(error),
            _ => Some("schema"),
        },
        _ => None,
    }
}
