// Headless Chromium for the scripts beside this file: one context, and a record of everything it complained about.
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

/** Starts the Chromium that the variable CHROMIUM names. `gate` leads `*.localhost:443` to another port. */
export async function open({ gate, javaScript = true, colorScheme = 'light', shots }) {
  const executablePath = process.env.CHROMIUM;
  if (!executablePath) throw new Error('CHROMIUM does not name a browser; tests/run finds or installs one');
  const args = ['--disable-dev-shm-usage'];
  if (gate) args.push(`--host-resolver-rules=MAP *.localhost:443 ${gate}`);
  const browser = await chromium.launch({
    executablePath,
    args,
    chromiumSandbox: process.getuid?.() !== 0,
  });
  const context = await browser.newContext({ ignoreHTTPSErrors: true, javaScriptEnabled: javaScript, colorScheme });
  context.setDefaultTimeout(20_000);
  const page = await context.newPage();
  const complaints = [];
  page.on('pageerror', (error) => complaints.push(`error: ${error.message}`));
  page.on('console', (message) => {
    // a refusal is an answer with a status that Chromium reports as an error of its own
    const status = /^Failed to load resource: the server responded with a status of 4\d\d/.test(message.text());
    if (message.type() === 'error' && !status) complaints.push(`console: ${message.text()}`);
  });

  if (shots) await mkdir(shots, { recursive: true });
  const shoot = async (name) => {
    if (!shots) return;
    for (const scheme of ['light', 'dark']) {
      await page.emulateMedia({ colorScheme: scheme });
      await page.screenshot({ path: join(shots, `${name}-${scheme}.png`), fullPage: true });
    }
    await page.emulateMedia({ colorScheme });
  };
  return { browser, context, page, complaints, shoot };
}

/** What somebody with a keyboard or a screen reader would miss on the page shown. */
export async function barriers(page) {
  return page.evaluate(() => {
    const found = [];
    if (!document.documentElement.lang) found.push('the page names no language');
    if (!document.title.trim()) found.push('the page has no title');
    if (document.querySelectorAll('h1').length !== 1) found.push('the page has not exactly one h1');
    if (!document.querySelector('main, [role=main]')) found.push('the page has no main landmark');
    for (const control of document.querySelectorAll('input:not([type=hidden]), select, textarea')) {
      const named = control.labels?.length || control.ariaLabel || control.getAttribute('aria-labelledby');
      if (!named) found.push(`no label: ${control.outerHTML.slice(0, 120)}`);
    }
    for (const control of document.querySelectorAll('button, a[href]')) {
      if (!control.textContent.trim() && !control.ariaLabel) found.push(`no name: ${control.outerHTML.slice(0, 120)}`);
    }
    for (const image of document.querySelectorAll('img:not([alt])')) found.push(`no alt: ${image.src.slice(0, 120)}`);
    for (const positive of document.querySelectorAll('[tabindex]')) {
      if (positive.tabIndex > 0) found.push('a tabindex above 0 breaks the order of the page');
    }
    return found;
  });
}

/** Presses Tab until the control of this name has the focus; returns how often, or null. */
export async function tabTo(page, name) {
  await page.evaluate(() => document.activeElement?.blur());
  for (let presses = 1; presses <= 40; presses += 1) {
    await page.keyboard.press('Tab');
    const focused = await page.evaluate(() => {
      const control = document.activeElement;
      return (control?.ariaLabel || control?.textContent || control?.value || '').trim();
    });
    if (new RegExp(name, 'i').test(focused)) return presses;
  }
  return null;
}
