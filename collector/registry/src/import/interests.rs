//! `interests.csv`: what one party holds of another, or decides in it, and from when to when.

use std::collections::BTreeMap;

use weighbridge_meter::UtcMillis;

use super::{Faults, ImportErrors, MOMENT, Placed, Row, Shape, Values, moment, read};
use crate::{
    Interest, InterestKind, PartyId,
    ownership::{Share, Stake},
};

const SHAPE: Shape = Shape {
    columns: &["owner", "asset", "kind", "share", "from", "to", "substantial_control"],
    optional: 4,
    // Who writes a name in place of a number must not find it in a log.
    values: Values::Numbers,
};

const SHARE: &str = "blank, or percent with at most four decimals, as 25, 12.5-50, >25 or >=25";

/// Reads `interests.csv`: `owner,asset,kind,share,from,to,substantial_control`. The last four may be left out.
///
/// A blank `share` is one that is not known; `>25` is a range from the next that there is, 25.0001, to 100. A day in
/// `from` or `to` is its first moment in UTC, so an interest that ended with a day ends at the next one. An interest
/// that ends where it begins never was. Of one owner, asset, kind and `from` there is one.
///
/// # Errors
/// Every fault in the file; nothing of it is imported then.
pub fn parse_interests(file_name: &str, text: &[u8]) -> Result<Vec<Interest>, ImportErrors> {
    read(file_name, text, &SHAPE, parse, refuse_twice)
}

/// Writes interests as [`parse_interests`] reads them.
pub fn write_interests<'a>(interests: impl IntoIterator<Item = &'a Interest>) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    // Writing to memory does not fail.
    let _ = writer.write_record(SHAPE.columns);
    for interest in interests {
        let moment = |moment: Option<UtcMillis>| moment.map(|moment| moment.to_string()).unwrap_or_default();
        let share = interest.share.map(|share| {
            let (least, most) = (share.least(), share.most());
            if least == most { least.to_string() } else { format!("{least}-{most}") }
        });
        let _ = writer.write_record([
            interest.owner.as_str(),
            interest.asset.as_str(),
            interest.kind.as_str(),
            &share.unwrap_or_default(),
            &moment(interest.from),
            &moment(interest.to),
            if interest.substantial_control { "true" } else { "" },
        ]);
    }
    String::from_utf8(writer.into_inner().unwrap_or_default()).unwrap_or_default()
}

fn parse(row: &mut Row<'_>) -> Option<Interest> {
    let party = |text: &str| text.parse::<PartyId>().ok();
    let owner = row.required("owner", PartyId::EXPECTED, party);
    let asset = row.required("asset", PartyId::EXPECTED, party);
    let kind = row.required("kind", InterestKind::EXPECTED, InterestKind::from_name);
    let share = row.optional("share", SHARE, stake);
    let or_blank = format!("blank, or {MOMENT}");
    let from = row.optional("from", &or_blank, moment);
    let to = row.optional("to", &or_blank, moment);
    let substantial_control =
        row.optional("substantial_control", "true, false or blank", |text| text.parse::<bool>().ok());
    if let (Some(Some(from)), Some(Some(to))) = (from, to)
        && to < from
    {
        row.fault("to", &to.to_string(), &format!("a time not before from, {from}"));
        return None;
    }
    Some(Interest {
        owner: owner?,
        asset: asset?,
        kind: kind?,
        share: share?,
        substantial_control: substantial_control?.unwrap_or_default(),
        from: from?,
        to: to?,
    })
}

fn stake(text: &str) -> Option<Stake> {
    let percent = |text: &str| text.trim().trim_end_matches('%').trim_end().parse::<Share>().ok();
    if let Some(least) = text.strip_prefix(">=") {
        Stake::between(percent(least)?, Share::WHOLE)
    } else if let Some(least) = text.strip_prefix('>') {
        let least = Share::from_millionths(percent(least)?.millionths() + 1)?;
        Stake::between(least, Share::WHOLE)
    } else if let Some((least, most)) = text.split_once('-') {
        Stake::between(percent(least)?, percent(most)?)
    } else {
        percent(text).map(Stake::exact)
    }
}

fn refuse_twice(rows: &[Placed<Interest>], faults: &mut Faults) {
    let mut first: BTreeMap<String, u64> = BTreeMap::new();
    for Placed { line, row } in rows {
        let before = *first.entry(row.key()).or_insert(*line);
        if before != *line {
            let problem = format!(
                "the same interest as on line {before}, expected one of an owner, asset, kind and from"
            );
            faults.add(*line, None, problem);
        }
    }
}
