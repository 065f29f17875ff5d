// One person's visit: sign in, see a page, be refused at another, look at the user page, sign out by keyboard.
//
// usage: node sign-in.mjs '{"url", "refusedUrl", "username", "password", "gate"?, "javaScript"?, "colorScheme"?, "shots"?}'
// Prints one JSON object with what was seen at each step.
import { barriers, open, tabTo } from './browser.mjs';

const visit = JSON.parse(process.argv[2]);
const { page, browser, complaints, shoot } = await open(visit);
const seen = { barriers: {} };
const nameField = page.locator('input[name=username], input[name=login]');
const passwordField = page.locator('input[name=password]');

async function look(name) {
  seen.barriers[name] = await barriers(page);
  await shoot(name);
  return { url: page.url(), title: await page.title(), text: await page.locator('body').innerText() };
}

// a hand-over too long for a URL is a form that posts itself; without scripts there is a button to press
async function arrive() {
  const there = page.waitForURL((url) => url.href === visit.url);
  if (visit.javaScript === false) {
    const proceed = page.getByRole('button', { name: /^continue$/i });
    const asked = proceed.waitFor().then(
      () => true,
      () => false,
    );
    if (await Promise.race([asked, there.then(() => false)])) await proceed.click();
  }
  await there;
}

try {
  await page.goto(visit.url);
  await nameField.waitFor();
  seen.signInPage = await look('sign-in');
  await nameField.fill(visit.username);
  await passwordField.fill(visit.password);
  await Promise.all([arrive(), passwordField.press('Enter')]);
  seen.page = await look('page');

  const refused = await page.goto(visit.refusedUrl);
  seen.refused = { status: refused.status(), ...(await look('refused')) };

  const user = await page.goto(new URL('/.pomerium/', visit.url).href);
  seen.user = { status: user.status(), headers: user.headers(), ...(await look('user')) };

  seen.tabsToSignOut = await tabTo(page, 'sign out');
  if (seen.tabsToSignOut === null) throw new Error('the keyboard does not reach a control named "sign out"');
  await Promise.all([page.waitForURL((url) => url.pathname !== '/.pomerium/'), page.keyboard.press('Enter')]);
  // our own confirmation, and the provider's
  for (let asked = 0; asked < 3; asked += 1) {
    await page.waitForLoadState();
    const confirm = page.getByRole('button', { name: /sign out/i });
    if ((await confirm.count()) === 0) break;
    const before = page.url();
    await confirm.first().click();
    await page.waitForURL((url) => url.href !== before);
  }
  seen.signedOut = await look('signed-out');

  await page.goto(visit.url);
  await page.waitForLoadState();
  seen.afterwards = { url: page.url(), asksForPassword: (await passwordField.count()) === 1 };
} catch (error) {
  seen.failed = `${error.message}`;
  seen.failedAt = { url: page.url(), text: await page.locator('body').innerText().catch(() => '') };
} finally {
  seen.complaints = complaints;
  await browser.close();
}
process.stdout.write(`${JSON.stringify(seen)}\n`);
