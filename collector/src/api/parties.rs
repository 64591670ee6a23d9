//! Parties: what may be known of them without opening anything, and the acts on them.
//!
//! What is asked for with GET is never under lock. Whatever writes, or opens what is under lock, wants the admin token;
//! what opens also wants who looks and why, and records that first.

use std::collections::BTreeMap;

use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State, rejection::BytesRejection, rejection::QueryRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use weighbridge_meter::UtcMillis;
use weighbridge_registry::{
    AccessLog, BadRecord, CustomerKind, Decision, Filled, Group, IdentityField, Interest, KeyError, Link,
    PartyId, PartyRecord, SealedCustomer, Standing, UsPerson,
    accesses::Grain,
    blind::What,
    identity::ReportField,
    interest,
    ownership::{self, Share},
    parse_record,
    statement::{self, Cell, Effect, SpecialMeasure, Statement},
};
use zeroize::Zeroizing;

use super::problem::{Admin, Problem};
use crate::{
    app::App,
    import::Imported,
    parties::{
        By, Certification, EraseError, Erasure, Export, Hold, How, Kept, Mirror, PartyError, Proposals, Told,
        tag,
    },
};

/// Parties in one answer, unless fewer are asked for.
const PAGE: usize = 1_000;

/// One party, with nothing of it opened.
#[derive(Debug, Serialize)]
pub(crate) struct PartyJson {
    pub(crate) id: PartyId,
    pub(crate) kind: CustomerKind,
    pub(crate) us_person: UsPerson,
    pub(crate) counts_as_foreign: bool,
    /// What its file names.
    control_group: Option<String>,
    /// The group that it is in, worked out.
    group: Option<String>,
    pub(crate) standing: Standing,
    /// Which fields of its identity are known.
    pub(crate) identity: BTreeMap<&'static str, &'static str>,
    /// How coarse the times are of what logs told, where the keys say so.
    #[serde(skip_serializing_if = "Option::is_none")]
    access_times: Option<AccessTimes>,
    /// How far each field that a report asks for can be filled.
    pub(crate) report_fields: BTreeMap<&'static str, Filled>,
    pub(crate) hold: Option<HoldJson>,
    pub(crate) erasure: Option<ErasedJson>,
    /// Changes when anything of the record does.
    tag: String,
}

/// For what the times of uses stand that logs told of.
#[derive(Debug, Serialize)]
struct AccessTimes {
    grain: Grain,
    /// How many uses they stand for.
    uses: u64,
    /// The same in words, where not every use has its time.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

impl AccessTimes {
    fn of(log: &AccessLog) -> Self {
        Self { grain: log.grain(), uses: log.count(), note: log.coarseness() }
    }
}

impl PartyJson {
    pub(crate) fn of(app: &App, sealed: &SealedCustomer) -> Self {
        let id = sealed.customer.as_str();
        let completeness = sealed.completeness();
        let erasure = app.erasure_of(id).map(|erasure| ErasedJson::of(app, erasure));
        let state = |known: bool| match (known, &erasure) {
            (true, Some(_)) => "erased",
            (true, None) => "present",
            (false, _) => "blank",
        };
        let identity = IdentityField::ALL
            .into_iter()
            .map(|field| (field.as_str(), state(sealed.knows(field))))
            .collect();
        Self {
            id: sealed.customer.clone(),
            kind: sealed.kind,
            us_person: sealed.us_person,
            counts_as_foreign: sealed.us_person.counts_as_foreign(),
            control_group: sealed.control_group.as_ref().map(ToString::to_string),
            group: app.groups().0.group_of(&sealed.customer).map(str::to_owned),
            standing: sealed.standing.clone(),
            identity,
            access_times: None,
            report_fields: ReportField::ALL
                .into_iter()
                .map(|field| {
                    (field.id(), if erasure.is_some() { Filled::Blank } else { completeness.filled(field) })
                })
                .collect(),
            hold: app.hold_of(id).map(|hold| HoldJson { actor: hold.by.actor, at: hold.at }),
            erasure,
            tag: tag(sealed),
        }
    }
}

/// An order to keep what is known. Why, which may name somebody, is in the bundle.
#[derive(Debug, Serialize)]
pub(crate) struct HoldJson {
    pub(crate) actor: String,
    pub(crate) at: UtcMillis,
}

/// How far an erasure has come. Why, which may name somebody, is in the ledger.
#[derive(Debug, Serialize)]
pub(crate) struct ErasedJson {
    pub(crate) actor: String,
    pub(crate) decided: UtcMillis,
    pub(crate) destroyed: Option<UtcMillis>,
    /// Copies of the key store that may still have the key, until they are brought up to date.
    pub(crate) still_in: Vec<MirrorJson>,
}

/// A copy of the key store.
#[derive(Debug, Serialize)]
pub(crate) struct MirrorJson {
    pub(crate) to: String,
    pub(crate) began: UtcMillis,
}

impl ErasedJson {
    fn of(app: &App, erasure: Erasure) -> Self {
        let mirrors = app.mirrors_of(&erasure);
        let still_in = mirrors.into_iter().map(|(to, mirror)| MirrorJson { to, began: mirror.began });
        let Erasure { by, decided, destroyed } = erasure;
        Self { actor: by.actor, decided, destroyed, still_in: still_in.collect() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PartiesAsked {
    /// Only after this one.
    after: Option<String>,
    /// At most so many.
    limit: Option<usize>,
}

#[derive(Debug, Serialize)]
pub(super) struct PartiesJson {
    as_of: UtcMillis,
    parties: Vec<PartyJson>,
    /// Where to go on, if there are more.
    next: Option<String>,
}

/// In order of their ids.
pub(super) async fn parties(
    State(app): State<App>,
    asked: Result<Query<PartiesAsked>, QueryRejection>,
) -> Result<Json<PartiesJson>, Problem> {
    let Query(PartiesAsked { after, limit }) = asked?;
    let limit = limit.unwrap_or(PAGE);
    if !(1..=PAGE).contains(&limit) {
        return Err(Problem::unusable(format!("limit: {limit} is not from 1 to {PAGE}")));
    }
    let known = app.customers();
    let from = after.as_deref().map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
    let mut rest = known.range::<str, _>((from, std::ops::Bound::Unbounded));
    let parties: Vec<PartyJson> =
        rest.by_ref().take(limit).map(|(_, sealed)| PartyJson::of(&app, sealed)).collect();
    let next = rest.next().and(parties.last()).map(|last| last.id.to_string());
    Ok(Json(PartiesJson { as_of: app.now(), parties, next }))
}

fn found(app: &App, id: &str) -> Result<SealedCustomer, Problem> {
    app.customers().get(id).cloned().ok_or_else(|| Problem::not_found("party", id))
}

fn party_id(id: &str) -> Result<PartyId, Problem> {
    id.parse().map_err(|error| Problem::unusable(format!("the id of the party is {error}")))
}

pub(super) async fn party(State(app): State<App>, Path(id): Path<String>) -> Result<Response, Problem> {
    let sealed = found(&app, &id)?;
    let mut party = PartyJson::of(&app, &sealed);
    // Opened only to be counted; of who is erased nothing opens.
    party.access_times =
        app.access_log(&sealed.customer).ok().filter(|log| !log.is_empty()).map(|log| AccessTimes::of(&log));
    Ok(tagged(StatusCode::OK, &tag(&sealed), Json(party)))
}

fn tagged(status: StatusCode, tag: &str, body: impl IntoResponse) -> Response {
    let mut response = (status, body).into_response();
    if let Ok(value) = HeaderValue::from_str(&format!("\"{tag}\"")) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response
}

/// Reads a body, and says where it is wrong but not what stands there: it may name somebody.
pub(super) fn body<T: DeserializeOwned>(
    body: Result<Bytes, BytesRejection>,
    expected: &str,
) -> Result<T, Problem> {
    let body = body.map_err(|error| Problem::new(error.status(), "body not readable", error.body_text()))?;
    serde_json::from_slice(&body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        Problem::unusable(format!("the body is not {expected}: line {line}, column {column}"))
    })
}

/// Reads a record as a line of a file of them is read, so that a fault is named by its place.
fn record_of(id: &PartyId, asked: Result<Bytes, BytesRejection>) -> Result<Told, Problem> {
    let asked =
        asked.map_err(|error| Problem::new(error.status(), "body not readable", error.body_text()))?;
    let wrong =
        |problem: String| Problem::unusable(format!("the body is not a record of a party: {problem}"));
    let rest = asked.trim_ascii().strip_prefix(b"{").map(<[u8]>::trim_ascii_start);
    let rest = rest.ok_or_else(|| wrong("expected {\"party\": {\"kind\": ..., ...}, ...}".into()))?;
    let id = serde_json::to_string(id).map_err(|error| Problem::failed(&error))?;
    let comma = if rest.starts_with(b"}") { "" } else { "," };
    let line = Zeroizing::new([format!("{{\"id\":{id}{comma}").as_bytes(), rest].concat());
    let PartyRecord { control_group, standing, party, .. } =
        parse_record(&line).map_err(|BadRecord { place, problem }| {
            wrong(place.map(|place| format!("{place}: ")).unwrap_or_default() + &problem)
        })?;
    Ok(Told { control_group, standing, party })
}

/// Replaces the record of a party, or makes it. The same again changes nothing. With `If-Match` it is replaced only if
/// it is still the one that was read.
pub(super) async fn put_party(
    State(app): State<App>,
    Path(id): Path<String>,
    _admin: Admin,
    headers: HeaderMap,
    asked: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let id = party_id(&id)?;
    let told = record_of(&id, asked)?;
    let expected = match headers.get(header::IF_MATCH) {
        None => None,
        Some(value) => {
            let text = value.to_str().ok().map(|text| text.trim().trim_matches('"').to_owned());
            Some(text.ok_or_else(|| Problem::unusable("if-match: not a tag in quotes"))?)
        }
    };
    let (imported, tag) = app.put_party(id, told, expected).await?;
    let status = if imported.recorded > 0 { StatusCode::CREATED } else { StatusCode::OK };
    Ok(tagged(status, &tag, Json(imported)))
}

pub(super) const BY: &str = "{\"actor\": ..., \"reason\": ...} in JSON";

/// Opens everything that is known of a party.
pub(super) async fn reveal(
    State(app): State<App>,
    Path(id): Path<String>,
    _admin: Admin,
    asked: Result<Bytes, BytesRejection>,
) -> Result<Json<serde_json::Value>, Problem> {
    let by: By = body(asked, BY)?;
    let (sealed, party) = app.reveal(&id, "record", &by).await?;
    Ok(Json(serde_json::json!({
        "id": sealed.customer, "control_group": sealed.control_group, "standing": sealed.standing,
        "party": party,
    })))
}

/// Everything that is known of one party, as who it is about may ask for it: its record, what is kept in clear, who
/// stands behind it and behind whom it stands, whose principals are its own, and every act on it.
pub(super) async fn bundle(
    State(app): State<App>,
    Path(id): Path<String>,
    _admin: Admin,
    asked: Result<Bytes, BytesRejection>,
) -> Result<Json<serde_json::Value>, Problem> {
    let by: By = body(asked, BY)?;
    let (sealed, party) = app.reveal(&id, "bundle", &by).await?;
    let interests: Vec<Interest> = app
        .all_interests()
        .into_iter()
        .filter(|interest| interest.owner == sealed.customer || interest.asset == sealed.customer)
        .collect();
    let links: Vec<Link> = app
        .links()
        .into_iter()
        .filter(|link| link.one == sealed.customer || link.other == sealed.customer)
        .collect();
    let mappings = app
        .shared
        .with(|state| state.mappings.iter().filter(|one| one.customer == id).cloned().collect::<Vec<_>>());
    let statements = app.statements_about(&sealed.customer);
    let statements = statements.iter().map(|kept| app.opened(kept));
    let statements: Vec<_> = statements
        .map(|opened| opened.map(|one| serde_json::json!({ "statement": one.kind().as_str(), "says": one })))
        .collect::<Result<_, _>>()?;
    let log = app.access_log(&sealed.customer).map_err(PartyError::from)?;
    let accesses: Vec<_> = log.entries().collect();
    let access_times = AccessTimes::of(&log);
    let acts = app.history_of(&id).await?;
    Ok(Json(serde_json::json!({
        "as_of": app.now(),
        "id": sealed.customer, "control_group": sealed.control_group, "standing": sealed.standing,
        "party": party, "interests": interests, "links": links, "principals": mappings,
        "statements": statements, "accesses": accesses, "access_times": access_times, "acts": acts,
        "hold": app.hold_of(&id), "erasure": app.erasure_of(&id),
    })))
}

/// Who stands behind a party.
#[derive(Debug, Serialize)]
pub(crate) struct Behind {
    pub(crate) as_of: UtcMillis,
    pub(crate) id: PartyId,
    /// What others hold of it and it holds of others, now.
    pub(crate) interests: Vec<Interest>,
    /// Everybody who holds a part of it in the end, the greatest first.
    pub(crate) owners: Vec<OwnerJson>,
    /// Who decides in it without that, directly or through others.
    pub(crate) control: Vec<PartyId>,
    /// Who does so if its votes, which were not told exactly, are as many as they can be.
    pub(crate) possible_control: Vec<PartyId>,
    /// Nobody was named whose part reaches the line of a beneficial owner, nor who controls it.
    pub(crate) nobody_named: bool,
    /// Special measures in force on it, or on who stands behind it.
    pub(crate) measures: Vec<MeasureJson>,
    /// Whether persons under measures that prohibit hold so much of it together, that a pack in use brings it under
    /// theirs: `yes`, `possible`, `no`, or `no_line`.
    pub(crate) held_by_measured: &'static str,
    /// How much of it nobody told of, in percent.
    pub(crate) unknown: (String, String),
    /// What is not known could be a beneficial owner.
    pub(crate) unknown_reaches_line: bool,
    /// It is held in a circle that nobody outside holds anything of.
    pub(crate) closed_circle: bool,
    /// More was told to be held of it than there is.
    pub(crate) overheld: bool,
    pub(crate) group: Option<GroupJson>,
}

/// A special measure on one of those who stand behind a party, or on the party.
#[derive(Debug, Serialize)]
pub(crate) struct MeasureJson {
    pub(crate) id: String,
    pub(crate) person: PartyId,
    pub(crate) effect: String,
    pub(crate) citation: String,
}

/// One owner, over all paths.
#[derive(Debug, Serialize)]
pub(crate) struct OwnerJson {
    pub(crate) party: PartyId,
    pub(crate) kind: Option<CustomerKind>,
    pub(crate) us_person: Option<UsPerson>,
    /// At least and at most, in percent.
    pub(crate) share: (String, String),
    /// How it stands to the line of a beneficial owner, if a pack in use names one.
    pub(crate) beneficial: &'static str,
}

/// One group.
#[derive(Debug, Serialize)]
pub(crate) struct GroupJson {
    pub(crate) name: String,
    #[serde(flatten)]
    pub(crate) group: Group,
}

impl Behind {
    pub(crate) fn of(app: &App, id: &PartyId) -> Self {
        let (known, line) = (app.customers(), app.owner_line());
        let stands = app.stands_behind(id);
        let parties = &stands.parties.1;
        let percent = |(least, most): (Share, Share)| (least.to_string(), most.to_string());
        let mut owners = Vec::new();
        let mut unknown = (Share::NOTHING, Share::NOTHING);
        let mut closed_circle = false;
        if let Some(found) = &stands.owners {
            (unknown, closed_circle) = (found.unknown, found.closed_circle);
            owners.extend(found.owners.iter().filter_map(|effective| {
                let party = parties.parties.get(effective.owner)?.clone();
                let sealed = known.get(party.as_str());
                Some(OwnerJson {
                    kind: sealed.map(|sealed| sealed.kind),
                    us_person: sealed.map(|sealed| sealed.us_person),
                    share: percent(effective.range()),
                    beneficial: match line.map(|line| effective.standing(line)) {
                        Some(ownership::Standing::Reaches) => "yes",
                        Some(ownership::Standing::Possible) => "possible",
                        Some(ownership::Standing::Below) => "no",
                        None => "no_line",
                    },
                    party,
                })
            }));
        }
        let place = parties.place(id);
        let controllers = |of: &[(usize, usize)]| -> Vec<PartyId> {
            let found = place.into_iter().flat_map(|place| interest::controllers(of, place));
            found.filter_map(|place| parties.parties.get(place).cloned()).collect()
        };
        let control = controllers(&parties.certain_controls);
        let mut possible_control = controllers(&parties.controls);
        possible_control.retain(|party| !control.contains(party));
        let now = app.now();
        let in_force: Vec<SpecialMeasure> = app
            .statements(statement::Kind::SpecialMeasure)
            .into_iter()
            .filter_map(|kept| match kept {
                Kept::Clear(Statement::SpecialMeasure(one)) => Some(one),
                _ => None,
            })
            .filter(|one| one.determined <= now && now < one.ends)
            .collect();
        let prohibited: Vec<usize> = in_force
            .iter()
            .filter(|one| one.effect == Effect::Prohibit)
            .filter_map(|one| parties.place(one.person.as_ref()?))
            .collect();
        let held_by_measured = match (app.measured_line(), place) {
            (None, _) => "no_line",
            (Some(_), None) => "no",
            (Some(line), Some(place)) => match parties.ownership.aggregate(&prohibited, line).get(place) {
                Some(ownership::Standing::Reaches) => "yes",
                Some(ownership::Standing::Possible) => "possible",
                Some(ownership::Standing::Below) | None => "no",
            },
        };
        let measures = in_force.into_iter().filter_map(|one| {
            let person = one.person.filter(|person| {
                person == id || control.contains(person) || owners.iter().any(|owner| owner.party == *person)
            })?;
            let (id, effect) = (one.id.as_str().to_owned(), one.effect.write());
            Some(MeasureJson { id, person, effect, citation: one.citation.write() })
        });
        let measures: Vec<MeasureJson> = measures.collect();
        let a_person = known.get(id.as_str()).is_some_and(|known| known.kind == CustomerKind::Person);
        let nobody_named =
            !a_person && control.is_empty() && owners.iter().all(|owner| owner.beneficial != "yes");
        let group = app.groups();
        let group = group.0.group_of(id).and_then(|name| group.0.get(name));
        Self {
            as_of: app.now(),
            id: id.clone(),
            control,
            nobody_named,
            measures,
            held_by_measured,
            possible_control,
            interests: stands.interests,
            owners,
            unknown: percent(unknown),
            unknown_reaches_line: line.is_some_and(|line| unknown.1 >= line),
            closed_circle,
            overheld: stands.overheld,
            group: group.map(|(name, group)| GroupJson { name: name.to_owned(), group: group.clone() }),
        }
    }
}

pub(super) async fn behind(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Behind>, Problem> {
    Ok(Json(Behind::of(&app, &found(&app, &id)?.customer)))
}

/// A decision about a sign that two parties belong together.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LinkAsked {
    one: PartyId,
    other: PartyId,
    decision: Decision,
    actor: String,
    reason: String,
}

pub(super) async fn link(
    State(app): State<App>,
    _admin: Admin,
    asked: Result<Bytes, BytesRejection>,
) -> Result<Json<Link>, Problem> {
    let LinkAsked { one, other, decision, actor, reason } = body(
        asked,
        "{\"one\", \"other\", \"decision\": confirmed, rejected or undone, \"actor\", \"reason\"} in JSON",
    )?;
    let link = Link { one, other, decision, by: actor, reason, at: app.now() };
    app.link(link.clone()).await?;
    Ok(Json(link))
}

pub(super) async fn links(State(app): State<App>, _admin: Admin) -> Json<Vec<Link>> {
    Json(app.links())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DryRun {
    #[serde(default)]
    dry_run: bool,
}

impl DryRun {
    pub(super) fn how(&self) -> How {
        if self.dry_run { How::DryRun } else { How::Record }
    }
}

/// Interests as a list: all of them are taken, or none.
pub(super) async fn put_interests(
    State(app): State<App>,
    asked: Result<Query<DryRun>, QueryRejection>,
    _admin: Admin,
    told: Result<Bytes, BytesRejection>,
) -> Result<Json<Imported>, Problem> {
    let Query(asked) = asked?;
    let told: Vec<Interest> =
        body(told, "a list of interests, each {\"owner\", \"asset\", \"kind\", \"share\", ...}")?;
    Ok(Json(app.put_interests(told, asked.how()).await?))
}

/// What somebody is looked for by.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sought {
    /// `name`, `email`, `telephone`, `domain`, `number`, `payment_source`, `address`, `access`, or a scheme of
    /// identifiers.
    by_its: String,
    text: String,
    actor: String,
    reason: String,
}

/// Who has a name, a number or an address.
pub(super) async fn find(
    State(app): State<App>,
    _admin: Admin,
    asked: Result<Bytes, BytesRejection>,
) -> Result<Json<serde_json::Value>, Problem> {
    let Sought { by_its, text, actor, reason } =
        body(asked, "{\"by_its\", \"text\", \"actor\", \"reason\"} in JSON")?;
    let what = What::from_name(&by_its).ok_or_else(|| {
        let by_its: String = by_its.chars().take(40).collect();
        Problem::unusable(format!("by_its: {by_its:?} is not {}", What::EXPECTED))
    })?;
    let found = app.find(what, &text, &By { actor, reason }).await?;
    Ok(Json(serde_json::json!({ "parties": found })))
}

/// Of whom, by whom and why.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExportAsked {
    /// All, where nobody is named.
    parties: Option<Vec<PartyId>>,
    actor: String,
    reason: String,
}

/// Parties in the formats that others use.
pub(super) async fn export(
    State(app): State<App>,
    Path(format): Path<String>,
    _admin: Admin,
    asked: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let export: Export = format
        .parse()
        .map_err(|problem: String| Problem::new(StatusCode::NOT_FOUND, "not found", problem))?;
    let ExportAsked { parties, actor, reason } =
        body(asked, "{\"parties\": [ids, or left out for all], \"actor\", \"reason\"} in JSON")?;
    let text = app.export(export, parties, &By { actor, reason }).await?;
    let headers = [(header::CONTENT_TYPE, export.content_type())];
    Ok((headers, text.as_bytes().to_vec()).into_response())
}

/// Signs that parties belong together, for a person to decide about.
pub(super) async fn proposals(State(app): State<App>) -> Result<Json<Proposals>, Problem> {
    Ok(Json(app.proposals()?))
}

/// Parties that are due for erasure.
pub(super) async fn due(State(app): State<App>) -> Result<Json<serde_json::Value>, Problem> {
    let asked = app.clone();
    let due = tokio::task::spawn_blocking(move || asked.all_due()).await;
    let due = due.map_err(|error| Problem::failed(&error))?;
    let due: Vec<_> =
        due.iter().map(|(due, party)| serde_json::json!({ "party": party, "due": due })).collect();
    Ok(Json(serde_json::json!({ "as_of": app.now(), "kept_for": app.kept_for(), "due": due })))
}

/// Of which moment.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Attested {
    attestation: Option<String>,
}

/// The figures of a certification: of now, or those that are on record beside an attestation. To count it opens every
/// identity, which takes a while where there are many.
pub(super) async fn certification(
    State(app): State<App>,
    asked: Result<Query<Attested>, QueryRejection>,
    _admin: Admin,
) -> Result<Json<serde_json::Value>, Problem> {
    let Query(Attested { attestation }) = asked?;
    if let Some(id) = attestation {
        return app.attested(&id).map(Json).ok_or_else(|| Problem::not_found("attestation", &id));
    }
    let counted = tokio::task::spawn_blocking(move || app.certification()).await;
    let counted: Certification = counted.map_err(|error| Problem::failed(&error))??;
    serde_json::to_value(counted).map(Json).map_err(|error| Problem::failed(&error))
}

/// Sets an order to keep what is known of a party.
pub(super) async fn set_hold(
    State(app): State<App>,
    Path(id): Path<String>,
    _admin: Admin,
    asked: Result<Bytes, BytesRejection>,
) -> Result<Json<Hold>, Problem> {
    let by: By = body(asked, BY)?;
    Ok(Json(app.hold(&party_id(&id)?, true, by).await?))
}

/// Lifts it.
pub(super) async fn lift_hold(
    State(app): State<App>,
    Path(id): Path<String>,
    _admin: Admin,
    asked: Result<Bytes, BytesRejection>,
) -> Result<Json<Hold>, Problem> {
    let by: By = body(asked, BY)?;
    Ok(Json(app.hold(&party_id(&id)?, false, by).await?))
}

/// Erases who a party is.
pub(super) async fn erase(
    State(app): State<App>,
    Path(id): Path<String>,
    _admin: Admin,
    asked: Result<Bytes, BytesRejection>,
) -> Result<Json<ErasedJson>, Problem> {
    let by: By = body(asked, BY)?;
    let erasure = app.erase(&party_id(&id)?, by).await?;
    Ok(Json(ErasedJson::of(&app, erasure)))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MirrorAsked {
    to: String,
    /// When it began, once it is done.
    done: Option<UtcMillis>,
    /// Who says that it is there no more.
    gone: Option<By>,
}

/// Records that the key store is about to be mirrored, that it was, or that a mirror is gone; tells when it began.
pub(super) async fn mirror(
    State(app): State<App>,
    _admin: Admin,
    asked: Result<Bytes, BytesRejection>,
) -> Result<Json<Mirror>, Problem> {
    let MirrorAsked { to, done, gone } = body(
        asked,
        "{\"to\": folder, \"done\": when it began, if it is, \"gone\": {\"actor\", \"reason\"}, if it is} in JSON",
    )?;
    Ok(Json(match gone {
        Some(by) => app.mirror_gone(&to, by).await?,
        None => app.mirror_keys(&to, done).await?,
    }))
}

impl From<PartyError> for Problem {
    fn from(error: PartyError) -> Self {
        match error {
            PartyError::NoParty(id) => Self::not_found("party", &id),
            PartyError::NoStatement(_) => Self::new(StatusCode::NOT_FOUND, "not found", error),
            PartyError::NotIndexed => Self::unavailable(&error),
            PartyError::Blank(_) => Self::unusable(error),
            PartyError::Bad(errors) => {
                Self::unusable("nothing is recorded, because some of it cannot be kept").with_errors(errors)
            }
            PartyError::Changed { .. } => Self::new(StatusCode::PRECONDITION_FAILED, "changed", error),
            PartyError::Keys(error @ KeyError::KeyDestroyed { .. }) => {
                Self::new(StatusCode::GONE, "erased", error)
            }
            PartyError::Keys(_) => Self::failed(&error),
            PartyError::Store(error) => error.into(),
            PartyError::Commit(error) => error.into(),
        }
    }
}

impl From<EraseError> for Problem {
    fn from(error: EraseError) -> Self {
        match error {
            EraseError::Held { .. } | EraseError::Open { .. } | EraseError::NotDue { .. } => {
                Self::unusable(error).contradicting()
            }
            EraseError::Party(error) => error.into(),
        }
    }
}
