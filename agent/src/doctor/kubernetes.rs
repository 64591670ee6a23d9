//! What the kubelet and the API server tell here, and what each right that is missing costs.

use std::{collections::BTreeMap, path::Path};

use weighbridge_meter::AcceleratorId;

use super::Diagnosis;
use crate::{
    config::Config,
    holders::kubernetes::{
        ApiError, ApiOptions, DEADLINE, KubernetesOptions, Labelled, ask,
        devices::{Accelerators, Slices, Unmapped},
        kubelet::{self, Given, KubeletError},
        names::Names,
        pods::Page,
        slices,
    },
    source::Device,
    uplink::chain,
};

/// Asks both once.
pub(super) async fn examine(config: &Config, devices: &[Device], found: &mut Diagnosis) {
    let Some(options) = &config.kubernetes else { return };
    let pods = match &options.socket {
        Some(socket) => Some((socket, kubelet::list(socket, DEADLINE).await)),
        None => None,
    };
    let absent = pods.as_ref().is_none_or(|(_, pods)| pods.as_ref().is_err_and(KubeletError::is_absent));
    let slices = match &options.api {
        Some(api) => api_server(options, api, found).await,
        None if absent => Slices::new(),
        None => {
            found.note(
                "kubernetes: no API server is asked (holders.kubernetes.api): attempts of pods are known on this host \
                 only, processes of pods are nobody's, and kubelets before 1.34 are believed about pods that are over",
            );
            Slices::new()
        }
    };
    if let Some((socket, pods)) = pods {
        kubelet(options, (socket, pods), devices, &slices, found).await;
    }
}

async fn kubelet(
    options: &KubernetesOptions,
    (socket, pods): (&Path, Result<Vec<Given>, KubeletError>),
    devices: &[Device],
    slices: &Slices,
    found: &mut Diagnosis,
) {
    let shown = socket.display();
    let pods = match pods {
        Ok(pods) => pods,
        Err(error) if error.is_absent() => {
            return found.note(format!(
                "kubelet {shown}: not there; on a node of Kubernetes without it no pod is known before its processes \
                 are. In a container, mount its folder"
            ));
        }
        Err(error) if error.is_refused() => {
            return found.fail(format!(
                "kubelet {shown}: this user may not ask it ({}); pods are known by their processes alone. Run the agent \
                 as root, or give its group the socket",
                chain(&error)
            ));
        }
        Err(error) => return found.fail(format!("kubelet {shown}: {}", chain(&error))),
    };
    let accelerators =
        Accelerators::of(devices, &[options.host.clone(), options.node.clone()], &options.proc);
    let mut unmapped: BTreeMap<Unmapped, usize> = BTreeMap::new();
    let mut held: Vec<(&Given, Vec<AcceleratorId>)> = Vec::new();
    for pod in &pods {
        let plugins = pod.devices.iter().map(|(resource, id)| accelerators.find(resource, id));
        let claims = pod.claims.iter().map(|claim| accelerators.claimed(claim, slices));
        let mut ids = Vec::new();
        for one in plugins.chain(claims) {
            match one {
                Ok(found) => ids.extend(found),
                Err(why) => *unmapped.entry(why).or_default() += 1,
            }
        }
        if !ids.is_empty() {
            held.push((pod, ids));
        }
    }
    found.good(format!("kubelet {shown}: {} pods, {} of them with accelerators", pods.len(), held.len()));
    for (why, count) in unmapped {
        found.fail(format!(
            "kubelet {shown}: {count} devices that it gave away are no accelerators of this host ({}); who has them is \
             known by processes alone",
            why.as_str()
        ));
    }
    if let Ok(all) = kubelet::allocatable(socket, DEADLINE).await {
        let managed: Vec<AcceleratorId> =
            all.iter().filter_map(|(resource, id)| accelerators.find(resource, id).ok()).flatten().collect();
        let others = devices.iter().filter(|device| device.present && !managed.contains(&device.id)).count();
        if others > 0 && !devices.is_empty() {
            found.note(format!(
                "kubelet {shown}: {others} accelerators are not among the devices that plugins offer"
            ));
        }
    }
    let names = Names::new(&options.cluster, [0; 32]);
    if let (Some((pod, ids)), Ok(names)) = (held.first(), names) {
        let label = if options.tenant_label.is_some() { Labelled::Unknown } else { Labelled::NotAsked };
        let principal = names.principal(&pod.namespace, &label);
        let ids: Vec<&str> = ids.iter().map(AcceleratorId::as_str).collect();
        found.line(
            "     ",
            format!("for example: a pod in {} has {} -> {principal}", pod.namespace, ids.join(", ")),
        );
    }
}

/// What drivers of claims call their devices, if it may be known.
async fn api_server(options: &KubernetesOptions, api: &ApiOptions, found: &mut Diagnosis) -> Slices {
    let url = &api.url;
    let pods = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}&limit=1", options.node);
    match ask(api, &pods).await {
        Ok(body) if Page::parse(&body).is_none_or(|page| page.pods.is_empty()) => found.fail(format!(
            "API server {url}: knows of no pod on node {}: set holders.kubernetes.node to what the cluster calls this host",
            options.node
        )),
        Ok(_) => found.good(format!("API server {url}: tells of the pods of node {}", options.node)),
        Err(ApiError::Refused(status)) => {
            found.fail(format!(
                "API server {url}: refuses to list pods ({status}): give the agent's account get, list and watch of pods. \
                 Until then attempts of pods are known on this host only"
            ));
            return Slices::new();
        }
        Err(error) => {
            found.fail(format!("API server {url}: {error}; attempts of pods are known on this host only"));
            return Slices::new();
        }
    }
    // There is none of this name: who may ask is told so.
    let probe = "weighbridge-doctor";
    let mut missing = Vec::new();
    for (kind, target) in [
        ("jobs", format!("/apis/batch/v1/namespaces/default/jobs/{probe}")),
        ("replicasets", format!("/apis/apps/v1/namespaces/default/replicasets/{probe}")),
        ("statefulsets", format!("/apis/apps/v1/namespaces/default/statefulsets/{probe}")),
    ] {
        if matches!(ask(api, &target).await, Err(ApiError::Refused(_))) {
            missing.push(kind);
        }
    }
    if !missing.is_empty() {
        found.note(format!(
            "API server {url}: may not get {}: a restart by what made those is another attempt",
            missing.join(", ")
        ));
    }
    if let Some(label) = &options.tenant_label {
        match ask(api, "/api/v1/namespaces/default").await {
            Ok(_) | Err(ApiError::Absent) => found.good(format!("API server {url}: tells the label {label} of namespaces")),
            Err(error) => found.fail(format!(
                "API server {url}: {error}: give the agent's account get of namespaces. Until then no pod is anybody's, as \
                 the label {label} decides"
            )),
        }
    }
    let target =
        format!("/apis/resource.k8s.io/v1/resourceslices?fieldSelector=spec.nodeName%3D{}", options.node);
    match ask(api, &target).await {
        Ok(body) => slices(&body).unwrap_or_default(),
        Err(ApiError::Refused(_)) => {
            found.note(format!(
                "API server {url}: may not list resourceslices: accelerators that are given away by claims are not known"
            ));
            Slices::new()
        }
        Err(_) => Slices::new(),
    }
}
