//! Registries over TLS: Debian's docker-registry with a certificate of our own making.

use std::{fs, path::Path};

use magik_image::{
    ImageSource,
    auth::{AuthSource, Credential},
    connect::ConnectOptions,
    pull::PullOptions,
    push::PushOptions,
    registries::{Registries, RegistriesSource},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::{
    debian::{Registry, Tls, image},
    fixture::{World, connect, options, reference},
};

/// An authority, and a certificate of its for this machine's loopback address.
fn certificates(dir: &Path) -> (String, Tls) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let tls = Tls {
        certificate: dir.join("server.pem"),
        key: dir.join("server.key"),
    };
    fs::write(&tls.certificate, certificate.pem()).unwrap();
    fs::write(&tls.key, key.serialize_pem()).unwrap();
    (authority.pem(), tls)
}

#[tokio::test]
async fn a_registry_is_believed_if_its_certificate_is() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, tls) = certificates(dir.path());
    let test = "a_registry_is_believed_if_its_certificate_is";
    let Some(registry) = Registry::start_with(test, false, Some(&tls)).await else {
        return;
    };
    let trusted = dir.path().join("trusted");
    fs::create_dir(&trusted).unwrap();
    fs::write(trusted.join("ca.crt"), authority).unwrap();
    let anonymous = connect(&AuthSource::Given(Credential::Anonymous));
    let mut trusting = anonymous.clone();
    trusting.certificates = Some(trusted);
    let pulling = |connect: &ConnectOptions| PullOptions {
        connect: connect.clone(),
        unpack: true,
        ..options()
    };
    let (here, there) = (World::new(), World::new());
    let image = image(&here).await;
    let target = reference(&registry.address);
    let push = |connect: &ConnectOptions| {
        let mut options = PushOptions::default();
        options.connect = connect.clone();
        options
    };

    let refused = here.store.push(&image, &target, &push(&anonymous), &()).await;
    let message = refused.unwrap_err().to_string();
    assert!(
        message.contains("certificate") && !message.contains('\n'),
        "{message}"
    );
    here.store
        .push(&image, &target, &push(&trusting), &())
        .await
        .unwrap();

    let source = ImageSource::Registry(target.clone());
    let refused = there.store.pull(&source, &pulling(&anonymous), &()).await;
    assert!(refused.unwrap_err().to_string().contains("certificate"));
    let pulled = there.store.pull(&source, &pulling(&trusting), &()).await.unwrap();
    assert_eq!(pulled.manifest_digest, image.manifest_digest);

    // What registries.conf calls insecure may show any certificate.
    let conf = format!(
        "[[registry]]\nlocation = \"{}\"\ninsecure = true\n",
        registry.address
    );
    let mut any = anonymous.clone();
    any.tls_verify = Some(false);
    let mut insecure = anonymous;
    insecure.registries = RegistriesSource::Given(Registries::parse(&conf).unwrap());
    let another = World::new();
    another
        .store
        .pull(&source, &pulling(&insecure), &())
        .await
        .unwrap();

    // So it is with what the command line says, whose word is the last one.
    let another = World::new();
    another.store.pull(&source, &pulling(&any), &()).await.unwrap();
    insecure.tls_verify = Some(true);
    let refused = World::new().store.pull(&source, &pulling(&insecure), &()).await;
    assert!(refused.unwrap_err().to_string().contains("certificate"));
}
