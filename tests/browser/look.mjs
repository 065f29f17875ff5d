// Opens one page and says what it holds: a check that the browser itself works.
//
// usage: node look.mjs '{"url", "gate"?, "javaScript"?, "colorScheme"?, "shots"?, "name"?}'
import { barriers, open } from './browser.mjs';

const look = JSON.parse(process.argv[2]);
const { page, browser, complaints, shoot } = await open(look);
const seen = {};
try {
  const answer = await page.goto(look.url);
  Object.assign(seen, {
    status: answer.status(),
    url: page.url(),
    title: await page.title(),
    text: await page.locator('body').innerText(),
    barriers: await barriers(page),
  });
  await shoot(look.name ?? 'page');
} catch (error) {
  seen.failed = `${error.message}`;
} finally {
  seen.complaints = complaints;
  await browser.close();
}
process.stdout.write(`${JSON.stringify(seen)}\n`);
