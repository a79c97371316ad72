//! The DaemonSet: what Kubernetes' own schemas say of it, and that it says the same as compose.yaml, which is run.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests_kit::container::folder;
use tests_kit::python::{python, yaml};

/// Oldest and newest release of Kubernetes whose schemas are asked.
const RELEASES: [&str; 2] = ["1.30.0", "1.37.0"];

fn manifest() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/kubernetes/penstock.yaml")
}

#[test]
fn the_schemas_know_every_field() -> Result<()> {
    let validate = python()?.with_file_name("kubernetes-validate");
    for release in RELEASES {
        let output = Command::new(&validate).args(["--strict", "-k", release]).arg(manifest()).output();
        let output = output.with_context(|| format!("{}: run `cargo xtask setup`", validate.display()))?;
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        ensure!(output.status.success(), "{release}: {said}");
    }
    Ok(())
}

#[test]
fn it_has_the_rights_that_the_container_is_tested_with() -> Result<()> {
    let documents = yaml(&manifest())?;
    let of = |kind: &str| documents.iter().find(|one| one["kind"] == kind).with_context(|| format!("no {kind}"));
    let set = &of("DaemonSet")?["spec"];
    ensure!(set["selector"]["matchLabels"] == set["template"]["metadata"]["labels"], "the selector misses its pods");
    let pod = &set["template"]["spec"];
    let container = &pod["containers"][0];
    let compose = yaml(&folder().join("compose.yaml"))?;
    let service = &compose.first().context("an empty compose.yaml")?["services"]["penstock"];

    ensure!(pod["hostNetwork"] == true && service["network_mode"] == "host");
    let grace = format!("{}s", pod["terminationGracePeriodSeconds"]);
    ensure!(service["stop_grace_period"] == grace.as_str());
    let security = &container["securityContext"];
    ensure!(security["capabilities"] == json!({ "drop": service["cap_drop"], "add": service["cap_add"] }));
    ensure!(
        security["readOnlyRootFilesystem"] == service["read_only"] && security["allowPrivilegeEscalation"] == false
    );
    let mounts: Vec<&Value> = container["volumeMounts"].as_array().into_iter().flatten().collect();
    for volume in service["volumes"].as_array().context("no volumes")? {
        let inside = volume.as_str().and_then(|volume| volume.split(':').nth(1)).context("a volume without a place")?;
        ensure!(mounts.iter().any(|mount| mount["mountPath"] == inside), "{inside} is not mounted");
    }
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        ensure!(container[probe]["exec"]["command"] == json!(["/usr/local/bin/penstock", "healthcheck"]), "{probe}");
    }
    let text = of("ConfigMap")?["data"]["penstock.toml"].as_str().context("no penstock.toml")?;
    let config = penstock::config::Config::parse(text, "ConfigMap")?;
    ensure!(config.kernel.pin_dir.starts_with("/sys/fs/bpf"), "{}", config.kernel.pin_dir.display());
    Ok(())
}

#[test]
fn the_base_for_kustomize_names_what_is_there() -> Result<()> {
    let documents = yaml(&manifest().with_file_name("kustomization.yaml"))?;
    let base = documents.first().context("an empty kustomization.yaml")?;
    ensure!(base["kind"] == "Kustomization" && base["apiVersion"] == "kustomize.config.k8s.io/v1beta1");
    for resource in base["resources"].as_array().context("no resources")? {
        let name = resource.as_str().context("a resource that is no file")?;
        ensure!(manifest().with_file_name(name).is_file(), "{name}");
    }
    let text = std::fs::read_to_string(manifest())?;
    for image in base["images"].as_array().context("no images")? {
        let name = image["name"].as_str().context("an image without a name")?;
        ensure!(text.contains(&format!("image: {name}:")), "no container has the image {name}");
    }
    Ok(())
}

/// What compose.https.yaml adds is where the server keeps certificates, and the right to the ports that it names.
#[test]
fn https_by_compose_keeps_its_certificates() -> Result<()> {
    let file = folder().join("compose.https.yaml");
    let documents = yaml(&file)?;
    let all = documents.first().context("an empty compose.https.yaml")?;
    let service = &all["services"]["penstock"];
    ensure!(service["cap_add"] == json!(["NET_BIND_SERVICE"]));
    let volume = service["volumes"][0].as_str().and_then(|volume| volume.split_once(':')).context("no volume")?;
    ensure!(all["volumes"].get(volume.0).is_some(), "{} is not declared", volume.0);
    let text = std::fs::read_to_string(&file)?;
    let config: String =
        text.lines().filter_map(|line| line.strip_prefix("#   ")).map(|line| format!("{line}\n")).collect();
    let config = penstock::config::Config::parse(&config, "compose.https.yaml")?;
    ensure!(config.acme.is_on() && config.acme.state_dir.starts_with(volume.1), "{:?}", config.acme.state_dir);
    Ok(())
}
