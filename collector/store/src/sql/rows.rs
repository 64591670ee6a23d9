//! Rows of SQL as values, and what makes no sense as an error that names table and column.

use std::collections::BTreeMap;

use serde::de::{DeserializeOwned, IgnoredAny};
use sqlx::{Row, sqlite::SqliteRow};
use weighbridge_meter::{AgentId, Calibrated, Doubt, Interval, Operations, Signs, UtcMillis};

use crate::{
    Place, StoreError, UsageSum,
    hour::{HeldState, HourKey, Sums, UsageKey},
    witness::Witness,
};

pub(super) fn nonsense(table: &'static str, column: &'static str, value: impl ToString) -> StoreError {
    StoreError::Nonsense { table, column, value: value.to_string() }
}

/// A column of a row, with the error naming both.
pub(super) struct Cells<'a> {
    pub(super) table: &'static str,
    pub(super) row: &'a SqliteRow,
}

impl Cells<'_> {
    pub(super) fn int(&self, column: &'static str) -> Result<i64, StoreError> {
        self.row.try_get(column).map_err(|error| nonsense(self.table, column, error))
    }

    pub(super) fn count(&self, column: &'static str) -> Result<u64, StoreError> {
        let value = self.int(column)?;
        u64::try_from(value).map_err(|_| nonsense(self.table, column, value))
    }

    pub(super) fn text(&self, column: &'static str) -> Result<String, StoreError> {
        self.row.try_get(column).map_err(|error| nonsense(self.table, column, error))
    }

    pub(super) fn name<T: std::str::FromStr>(&self, column: &'static str) -> Result<T, StoreError> {
        let text = self.text(column)?;
        text.parse().map_err(|_| nonsense(self.table, column, text))
    }

    pub(super) fn json<T: DeserializeOwned>(&self, column: &'static str) -> Result<T, StoreError> {
        let text = self.text(column)?;
        serde_json::from_str(&text).map_err(|_| nonsense(self.table, column, text))
    }

    pub(super) fn operations(&self, column: &'static str) -> Result<Operations, StoreError> {
        let value = self.count(column)?;
        Operations::from_tera(value).map_err(|_| nonsense(self.table, column, value))
    }

    pub(super) fn sums(&self) -> Result<Sums, StoreError> {
        let (low, best, high) =
            (self.operations("low_tera")?, self.operations("best_tera")?, self.operations("high_tera")?);
        let (from, to) = (self.operations("calibrated_low_tera")?, self.operations("calibrated_high_tera")?);
        Ok(Sums {
            bound: Interval::new(low, best, high)
                .map_err(|_| nonsense(self.table, "best_tera", best.tera()))?,
            calibrated: Calibrated::new(from, to)
                .map_err(|_| nonsense(self.table, "calibrated_low_tera", from.tera()))?,
            measured_ms: self.count("measured_ms")?,
            interpolated_ms: self.count("interpolated_ms")?,
            signs: self.signs()?,
        })
    }

    /// Evidence of one row, or of several with blanks between them. Where there is no text there is none, and
    /// what another version of this program summed is none either: that version folds its hours anew.
    pub(super) fn signs(&self) -> Result<Signs, StoreError> {
        let text = self.text("signs")?;
        let mut all = Signs::default();
        for one in text.split_ascii_whitespace() {
            match serde_json::from_str(one) {
                Ok(signs) => all.merge(&signs),
                Err(_) if serde_json::from_str::<IgnoredAny>(one).is_ok() => {}
                Err(_) => return Err(nonsense(self.table, "signs", one)),
            }
        }
        Ok(all)
    }

    pub(super) fn witnesses(&self) -> Result<Vec<Witness>, StoreError> {
        match self.text("witnesses")?.as_str() {
            "" => Ok(Vec::new()),
            _ => self.json("witnesses"),
        }
    }

    pub(super) fn doubts(&self) -> Result<BTreeMap<(AgentId, Doubt), u64>, StoreError> {
        if self.text("doubts")?.is_empty() {
            return Ok(BTreeMap::new());
        }
        let doubts: Vec<(AgentId, Doubt, u64)> = self.json("doubts")?;
        Ok(doubts.into_iter().map(|(agent, doubt, millis)| ((agent, doubt), millis)).collect())
    }

    pub(super) fn usage_key(&self) -> Result<UsageKey, StoreError> {
        let state = self.text("state")?;
        let holder = match self.text("principal")?.as_str() {
            "" => None,
            _ => Some((self.name("principal")?, self.name("attempt")?)),
        };
        Ok(UsageKey {
            holder,
            state: HeldState::from_name(&state).ok_or_else(|| nonsense(self.table, "state", state))?,
        })
    }
}

pub(super) fn place(row: &SqliteRow) -> Result<Place, StoreError> {
    let cells = Cells { table: "position", row };
    Ok(Place {
        index: cells.count("entry_index")?,
        segment: cells.count("segment")?,
        offset: cells.count("byte_offset")?,
    })
}

pub(super) fn hour_key(cells: &Cells<'_>) -> Result<HourKey, StoreError> {
    Ok(HourKey { accelerator: cells.name("accelerator")?, hour: UtcMillis(cells.int("hour_ms")?) })
}

pub(super) fn usage_sum(row: &SqliteRow) -> Result<UsageSum, StoreError> {
    let cells = Cells { table: "usage", row };
    let key = cells.usage_key()?;
    Ok(UsageSum {
        accelerator: cells.name("accelerator")?,
        holder: key.holder,
        state: key.state,
        sums: cells.sums()?,
    })
}
