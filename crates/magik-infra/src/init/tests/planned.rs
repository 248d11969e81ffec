//! Extensions that the pod asks for.

use super::*;
use crate::plan::ExtensionPlan;

/// Writes how the pod stands, once it is ready, into the file that it is made with; in a task.
#[derive(Debug)]
pub(super) struct Note(PathBuf);

impl Note {
    pub(super) fn make(config: &serde_json::Value) -> Result<Box<dyn InfraExtension>, ExtensionError> {
        let file = config["file"].as_str().ok_or("file: is missing")?;
        Ok(Box::new(Self(file.into())))
    }
}

#[async_trait]
impl InfraExtension for Note {
    fn name(&self) -> &str {
        "note"
    }
    async fn on_ready(&self, pod: &PodContext) -> Result<(), ExtensionError> {
        let (path, of) = (self.0.clone(), pod.clone());
        pod.spawn(async move {
            let names: Vec<_> = of.status().containers.into_iter().map(|c| c.name).collect();
            let _ = std::fs::write(path, names.join(" "));
        });
        Ok(())
    }
}

#[tokio::test]
async fn a_pod_has_the_extensions_that_it_asks_for_or_is_not_started() {
    let mut world = world(&["a", "b"], Troublemaker::default()).await;
    let note = world._dir.path().join("note");
    let asked = |name: &str, config| ExtensionPlan {
        name: name.into(),
        config,
    };
    world.plan.extensions = vec![asked("note", serde_json::json!({"file": note}))];
    world.launch().await.unwrap();
    world.client.commit().await.unwrap();
    while std::fs::read_to_string(&note).unwrap_or_default() != "a b" {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    world.client.stop(None).await.unwrap();

    for (name, config, expected) in [
        (
            "nothing",
            serde_json::json!({}),
            "this init has no extension \"nothing\": it has [note]",
        ),
        ("note", serde_json::json!({}), "extension note: file: is missing"),
    ] {
        let mut world = self::world(&["a"], Troublemaker::default()).await;
        world.plan.extensions = vec![asked(name, config)];
        let error = world.launch().await.unwrap_err().to_string();
        assert_eq!(error, format!("extension: {expected}"));
        assert!(world.runtime.calls("create").is_empty());
    }
}
