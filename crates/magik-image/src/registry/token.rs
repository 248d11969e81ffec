//! From a challenge to an authorization (distribution's "Token Authentication" and "OAuth2").

use std::fmt;

use reqwest::{
    Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE},
};
use serde::Deserialize;

use super::http::Guard;
use crate::auth::Credential;

/// The most that is read of a token server's answer, in bytes.
pub(super) const MAX_TOKEN_RESPONSE: u64 = 64 * 1024;

/// What goes into the `Authorization` header.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Authorization {
    Basic {
        username: String,
        password: String,
    },
    /// Checked to be a header's value.
    Bearer(String),
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Basic { .. } => "Basic(..)",
            Self::Bearer(_) => "Bearer(..)",
        })
    }
}

/// How a registry wants to be convinced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer(Bearer),
}

/// Where tokens are to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bearer {
    realm: String,
    service: Option<String>,
}

impl Challenge {
    /// The strongest challenge in an answer that we can meet.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut basic = None;
        for value in headers.get_all(WWW_AUTHENTICATE) {
            let Some(challenges) = value
                .to_str()
                .ok()
                .and_then(|text| http_auth::parse_challenges(text).ok())
            else {
                continue;
            };
            for challenge in challenges {
                let param = |name: &str| {
                    let found = challenge
                        .params
                        .iter()
                        .find(|(key, _)| key.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.to_unescaped())
                };
                if challenge.scheme.eq_ignore_ascii_case("bearer")
                    && let Some(realm) = param("realm")
                {
                    return Some(Self::Bearer(Bearer {
                        realm,
                        service: param("service"),
                    }));
                }
                if challenge.scheme.eq_ignore_ascii_case("basic") {
                    basic = Some(Self::Basic);
                }
            }
        }
        basic
    }
}

impl Bearer {
    /// The request for a token, for `scope` if it is for something; `registry` is where the
    /// challenge came from.
    pub(super) fn request(
        &self,
        http: &reqwest::Client,
        registry: &Url,
        guard: &Guard,
        scope: Option<&str>,
        credential: &Credential,
    ) -> Result<reqwest::RequestBuilder, String> {
        let mut url = Url::parse(&self.realm).map_err(|e| format!("its address is no URL: {e}"))?;
        // A registry that was reached over TLS must not make us send a password without.
        if url.scheme() != "https" && url.scheme() != registry.scheme() {
            return Err(format!(
                "its address is of scheme {:?}, which is less than the registry's",
                super::one_line(url.scheme())
            ));
        }
        guard
            .allows_url(&url)
            .map_err(|why| format!("its address {why}"))?;
        let scope = scope.map(|scope| ("scope", scope));
        let mut fields: Vec<_> = scope.into_iter().chain([("client_id", "magikrun")]).collect();
        if let Some(service) = &self.service {
            fields.push(("service", service));
        }
        if let Credential::IdentityToken(token) = credential {
            fields.extend([("grant_type", "refresh_token"), ("refresh_token", token)]);
            // The same encoding as a query's; the address is only a place to do it in.
            let mut form = url.clone();
            form.query_pairs_mut().clear().extend_pairs(fields);
            let body = form.query().unwrap_or_default().to_owned();
            return Ok(http
                .post(url)
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(body));
        }
        url.query_pairs_mut().extend_pairs(fields);
        Ok(match credential {
            Credential::Basic { username, password } => {
                url.query_pairs_mut().append_pair("account", username);
                http.get(url).basic_auth(username, Some(password))
            }
            _ => http.get(url),
        })
    }
}

/// Reads a token server's answer.
pub(super) fn read(body: &[u8]) -> Result<Authorization, String> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    // Not serde's message: it might quote the token.
    let answer: Answer =
        serde_json::from_slice(body).map_err(|_| "is not the JSON that the protocol asks for")?;
    let token = answer
        .token
        .or(answer.access_token)
        .filter(|token| !token.is_empty())
        .ok_or("is missing")?;
    HeaderValue::from_str(&token).map_err(|_| "holds characters that no header can")?;
    Ok(Authorization::Bearer(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(value).unwrap());
        }
        Challenge::of(&headers)
    }

    #[test]
    fn reads_challenges_and_prefers_tokens() {
        let bearer = Challenge::Bearer(Bearer {
            realm: "https://a/token".into(),
            service: Some("reg".into()),
        });
        let text = r#"Bearer realm="https://a/token",service="reg",scope="repository:x:pull""#;
        assert_eq!(challenge(&[text]), Some(bearer.clone()));
        assert_eq!(challenge(&[r#"Basic realm="x""#, text]), Some(bearer));
        assert_eq!(challenge(&[r#"basic realm="x""#]), Some(Challenge::Basic));
        for bad in [&["Negotiate"][..], &["Bearer service=\"x\""], &["\"\"\""], &[]] {
            assert_eq!(challenge(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_password_is_not_sent_in_the_clear_to_where_a_tls_registry_points() {
        super::super::http::install_crypto();
        let http = reqwest::Client::new();
        let ask = |realm: &str, registry: &str| {
            let bearer = Bearer {
                realm: realm.into(),
                service: None,
            };
            let credential = Credential::Basic {
                username: "u".into(),
                password: "p".into(),
            };
            bearer.request(
                &http,
                &Url::parse(registry).unwrap(),
                &Guard::new("r"),
                Some("repository:x:pull"),
                &credential,
            )
        };
        assert!(ask("http://a/token", "https://r/v2/").is_err());
        assert!(ask("file:///etc/passwd", "http://r/v2/").is_err());
        assert!(ask("http://169.254.169.254/token", "http://r/v2/").is_err());
        assert!(ask("not a url", "https://r/v2/").is_err());
        let request = ask("https://a/token?x=1", "https://r/v2/")
            .unwrap()
            .build()
            .unwrap();
        assert_eq!(
            request.url().query(),
            Some("x=1&scope=repository%3Ax%3Apull&client_id=magikrun&account=u")
        );
    }

    #[test]
    fn an_identity_token_is_posted_and_not_part_of_an_address() {
        super::super::http::install_crypto();
        let bearer = Bearer {
            realm: "https://a/token".into(),
            service: Some("s".into()),
        };
        let credential = Credential::IdentityToken("re+fresh".into());
        let request = bearer.request(
            &reqwest::Client::new(),
            &Url::parse("https://r").unwrap(),
            &Guard::new("r"),
            Some("x"),
            &credential,
        );
        let request = request.unwrap().build().unwrap();
        assert_eq!(
            (request.method().as_str(), request.url().as_str()),
            ("POST", "https://a/token")
        );
        let body = request.body().unwrap().as_bytes().unwrap();
        assert_eq!(
            body,
            b"scope=x&client_id=magikrun&service=s&grant_type=refresh_token&refresh_token=re%2Bfresh"
        );
    }

    #[test]
    fn takes_either_name_of_the_token_and_refuses_what_is_no_header() {
        assert_eq!(
            read(br#"{"access_token": "a"}"#).unwrap(),
            Authorization::Bearer("a".into())
        );
        assert_eq!(
            read(br#"{"token": "b", "access_token": "a"}"#).unwrap(),
            Authorization::Bearer("b".into())
        );
        for bad in [
            &br#"{}"#[..],
            br#"{"token": ""}"#,
            br#"{"token": "a\r\nb"}"#,
            b"x",
        ] {
            assert!(read(bad).is_err());
        }
    }
}
