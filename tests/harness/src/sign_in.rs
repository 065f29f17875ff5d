//! The way through a sign-in and a sign-out, as somebody in front of a browser would take it.

use anyhow::{Context, Result, bail};

use crate::client::{Answer, Visitor};
use crate::form::Form;

/// Steps of one sign-in, forms and redirects, before we call it a circle.
const STEPS: usize = 30;

/// Goes to `url` and through whatever lies before it: redirects, the provider's form (name and password are the
/// same), forms that post themselves. Shows the first answer that asks for nothing more.
///
/// # Errors
/// The way does not end, or the provider takes neither field that we know.
pub async fn sign_in(visitor: &Visitor, url: &str, who: &str) -> Result<Answer> {
    let answer = visitor.get(url).await?;
    go_on(visitor, answer, who, who).await
}

/// Goes on from an answer that was got on the way.
///
/// # Errors
/// As [`sign_in`].
pub async fn go_on(visitor: &Visitor, mut answer: Answer, who: &str, password: &str) -> Result<Answer> {
    let mut asked = false;
    for _ in 0..STEPS {
        answer = visitor.follow(answer, STEPS).await?;
        let Some(form) = Form::all(&answer.text()).into_iter().find(|form| form.post && !is_sign_out(form)) else {
            return Ok(answer);
        };
        if form.passwords.is_empty() {
            if !posts_itself(&answer, &form) {
                return Ok(answer);
            }
            answer = submit(visitor, &answer, &form).await?;
            continue;
        }
        if asked {
            // the provider asks again: the password was wrong, and the page says so
            return Ok(answer);
        }
        asked = true;
        answer = submit(visitor, &answer, &credentials(form, who, password)?).await?;
    }
    bail!("the sign-in goes in circles, the last step at {}", answer.url)
}

/// Goes as far as the provider's form and stops there.
///
/// # Errors
/// The way does not lead to one.
pub async fn to_the_form(visitor: &Visitor, url: &str) -> Result<(Answer, Form)> {
    let answer = visitor.follow(visitor.get(url).await?, STEPS).await?;
    let form = Form::all(&answer.text()).into_iter().find(|form| !form.passwords.is_empty());
    let form = form.with_context(|| format!("no sign-in form at {}: {}", answer.url, answer.text()))?;
    Ok((answer, form))
}

/// Fills in a sign-in form.
///
/// # Errors
/// It has none of the fields that we know.
pub fn credentials(mut form: Form, who: &str, password: &str) -> Result<Form> {
    let field = ["username", "login"].into_iter().find(|name| form.has(name));
    form.fill(field.context("a sign-in form without username or login")?, who);
    let secret = form.passwords.first().context("no password field")?.clone();
    form.fill(&secret, password);
    Ok(form)
}

/// Sends a form of a page by its first button.
///
/// # Errors
/// No answer.
pub async fn submit(visitor: &Visitor, page: &Answer, form: &Form) -> Result<Answer> {
    let mut fields = form.fields.clone();
    fields.extend(form.buttons.first().cloned());
    let mut target = form.target(&page.url)?;
    if !form.post {
        target.query_pairs_mut().clear().extend_pairs(&fields);
        return visitor.get(target.as_str()).await;
    }
    visitor.post_form_from(&page.url.origin().ascii_serialization(), target.as_str(), &fields).await
}

/// Signs out at the host of `url`, answering every "really?" with yes, and shows the page at the end.
///
/// # Errors
/// The way does not end.
pub async fn sign_out(visitor: &Visitor, url: &str) -> Result<Answer> {
    let page = url::Url::parse(url)?.join("/.pomerium/")?;
    let page = visitor.get(page.as_str()).await?;
    let form = Form::all(&page.text()).into_iter().find(is_sign_out);
    let form = form.with_context(|| format!("no sign-out on the user page: {}", page.text()))?;
    let mut answer = submit(visitor, &page, &form).await?;
    for _ in 0..STEPS {
        answer = visitor.follow(answer, STEPS).await?;
        let form = Form::all(&answer.text()).into_iter().find(|form| form.post && form.passwords.is_empty());
        match form {
            Some(form) => answer = submit(visitor, &answer, &form).await?,
            None => return Ok(answer),
        }
    }
    bail!("the sign-out goes in circles, the last step at {}", answer.url)
}

fn is_sign_out(form: &Form) -> bool {
    form.action.contains("/.pomerium/sign_out")
}

/// A hand-over too long for a URL: nothing to fill in, and it goes to a callback.
fn posts_itself(answer: &Answer, form: &Form) -> bool {
    answer.url.path() != "/" && form.action.contains("/.pomerium/callback/")
}
