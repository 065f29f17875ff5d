//! The demo as a whole, without the gateway between its peers.

use super::*;

fn options(dir: &Path) -> DemoOptions {
    let address = "127.0.0.1:8443".parse().unwrap();
    DemoOptions { address, data_dir: Some(dir.to_owned()), config_out: None, peers_only: true }
}

#[actix_web::test]
async fn a_restart_keeps_issuer_upstream_and_client() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir.path().join("demo"));
    let first = prepare(&options, options.address).await.unwrap();
    let text = first.config_text.clone();
    assert_eq!(fs::read_to_string(&first.config_path).unwrap(), text);
    first.stop().await.unwrap();
    let second = prepare(&options, options.address).await.unwrap();
    assert_eq!(second.config_text, text);
    second.stop().await.unwrap();
}

#[actix_web::test]
async fn a_port_in_use_is_an_error_that_names_port_and_flag() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let running = prepare(&options, options.address).await.unwrap();
    let kept: Kept = serde_json::from_str(&fs::read_to_string(dir.path().join("demo.json")).unwrap()).unwrap();
    let error = prepare(&options, options.address).await.map(|_| ()).unwrap_err().to_string();
    assert!(error.contains(&kept.provider_port.to_string()) && error.contains("--data-dir"), "{error}");
    running.stop().await.unwrap();
}

#[actix_web::test]
async fn without_a_data_directory_nothing_stays() {
    let options = DemoOptions { data_dir: None, ..options(Path::new("/")) };
    let demo = prepare(&options, options.address).await.unwrap();
    let dir = demo.config_path.parent().unwrap().to_owned();
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    for file in fs::read_dir(&dir).unwrap() {
        let file = file.unwrap();
        let public = file.file_name().to_string_lossy().ends_with(".pem");
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, if public { 0o644 } else { 0o600 }, "{:?}", file.file_name());
    }
    demo.stop().await.unwrap();
    assert!(!dir.exists());
}

#[actix_web::test]
async fn the_configuration_goes_where_it_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.yaml");
    let options = DemoOptions { config_out: Some(out.clone()), ..options(&dir.path().join("demo")) };
    let demo = prepare(&options, options.address).await.unwrap();
    assert_eq!(fs::read_to_string(&out).unwrap(), demo.config_text);
    assert!(demo.greeting.contains(&format!("portcullis run -c {}", out.display())));
    demo.stop().await.unwrap();
}

#[actix_web::test]
async fn a_gateway_without_a_port_is_refused() {
    let options = DemoOptions { address: "127.0.0.1:0".parse().unwrap(), ..options(Path::new("/")) };
    let error = prepare(&options, options.address).await.map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("--address"), "{error}");
}
