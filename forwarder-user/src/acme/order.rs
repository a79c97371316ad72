//! One certificate: account, order, challenges, request (RFC 8555 §7.1).

use std::time::Duration;

use anyhow::{Context as _, bail};
use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, ExternalAccountKey, Identifier, NewAccount, NewOrder, Order,
    OrderStatus, RetryPolicy,
};
use zeroize::Zeroizing;

use super::{directory::Connections, files::Files, shown::Shown, x509};
use crate::config::{Acme, AcmeChallenge};

/// How long an authority may take for its challenges, and for the certificate.
const PATIENCE: Duration = Duration::from_secs(90);
/// Bytes of a SHA-256.
const DIGEST_BYTES: usize = 32;

/// A certificate and its key, in PEM.
pub(super) struct Got {
    pub(super) key: Zeroizing<Vec<u8>>,
    pub(super) chain: String,
}

/// Gets a certificate for all names of the configuration.
///
/// # Errors
/// What the authority or the system says.
pub(super) async fn get(config: &Acme, files: &Files, shown: &Shown) -> anyhow::Result<Got> {
    let account = account(config, files).await?;
    let names: Vec<Identifier> = config.names.iter().cloned().map(Identifier::Dns).collect();
    let mut order = account.new_order(&NewOrder::new(&names)).await.context("the order")?;
    let shows = prove(config.challenge, &mut order, shown).await;
    // An authority asks for them until the order is ready, and not after.
    let ready = match shows {
        Ok(()) => ready(&mut order).await,
        Err(error) => Err(error),
    };
    shown.forget_answers();
    ready?;
    let key = x509::key()?;
    order.finalize_csr(&x509::request(&key, &config.names)?).await.context("the request for the certificate")?;
    let chain = order.poll_certificate(&RetryPolicy::new().timeout(PATIENCE)).await.context("the certificate")?;
    Ok(Got { key: Zeroizing::new(key.private_key_to_pem_pkcs8()?), chain })
}

/// The account that there is, or a new one.
async fn account(config: &Acme, files: &Files) -> anyhow::Result<Account> {
    let builder = Account::builder_with_http(Box::new(Connections::new(&config.directory_ca)?));
    if let Some(kept) = files.account(&config.directory)? {
        return builder.from_credentials(kept).await.with_context(|| config.directory.clone());
    }
    let contact = format!("mailto:{}", config.contact);
    let contacts = [contact.as_str()];
    let account = NewAccount {
        contact: if config.contact.is_empty() { &[] } else { &contacts },
        terms_of_service_agreed: config.terms_agreed,
        only_return_existing: false,
    };
    let binding = (!config.eab_key_id.is_empty())
        .then(|| config.eab_key().map(|key| ExternalAccountKey::new(config.eab_key_id.clone(), &key)))
        .flatten();
    let (account, credentials) = builder
        .create(&account, config.directory.clone(), binding.as_ref())
        .await
        .with_context(|| format!("an account with {}", config.directory))?;
    files.keep_account(&config.directory, &credentials)?;
    Ok(account)
}

/// Answers every challenge that the authority has not seen answered before.
async fn prove(challenge: AcmeChallenge, order: &mut Order, shown: &Shown) -> anyhow::Result<()> {
    let kind = match challenge {
        AcmeChallenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
        AcmeChallenge::Http01 => ChallengeType::Http01,
    };
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.context("an authorization")?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let Identifier::Dns(name) = authorization.identifier().identifier.clone() else {
            bail!("the authority asks for something that is no name");
        };
        let mut handle = authorization
            .challenge(kind.clone())
            .with_context(|| format!("the authority has no such challenge as `acme.challenge` for {name}"))?;
        let proof = handle.key_authorization();
        match challenge {
            AcmeChallenge::TlsAlpn01 => {
                let digest: [u8; DIGEST_BYTES] = proof.digest().as_ref().try_into()?;
                shown.answer_by_tls(&name, x509::challenge(&name, &digest)?);
            }
            AcmeChallenge::Http01 => shown.answer_by_http(&handle.token, proof.as_str()),
        }
        handle.set_ready().await.with_context(|| format!("the challenge for {name}"))?;
    }
    Ok(())
}

async fn ready(order: &mut Order) -> anyhow::Result<()> {
    match order.poll_ready(&RetryPolicy::new().timeout(PATIENCE)).await.context("the challenges")? {
        OrderStatus::Ready | OrderStatus::Valid => Ok(()),
        _ => bail!(why_invalid(order).await),
    }
}

/// What the authority says of the challenges that it has not taken.
async fn why_invalid(order: &mut Order) -> String {
    let mut reasons = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let Ok(mut authorization) = authorization else { continue };
        let Ok(state) = authorization.refresh().await else { continue };
        let errors = state.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
        reasons.extend(errors.map(ToString::to_string));
    }
    format!("the authority could not find that the names are ours: {}", reasons.join("; "))
}
