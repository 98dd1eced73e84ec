// Calls to the hub's REST API with the page's XSRF token.

/** The hub's answer, or an Error whose text a user may read; error.status is 0 when it is away. */
export async function hub(method, url, body) {
  const headers = { Accept: "application/json", "X-XSRFToken": window.jhdata.xsrf_token };
  if (body) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(url, { method, headers, body: body && JSON.stringify(body) });
  } catch {
    throw Object.assign(new Error("The platform does not answer. Try again in a moment."), { status: 0 });
  }
  const text = await answer.text();
  let data = null;
  try { data = text ? JSON.parse(text) : null; } catch { /* not JSON: the proxy's own page */ }
  if (!answer.ok) {
    const message = data?.message || "The platform refused. Load the page again and try once more.";
    throw Object.assign(new Error(message), { status: answer.status });
  }
  return data;
}

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/** Stop a server and come back when nothing of it is pending any more, at most after 30 seconds. */
export async function stopServer(api, body) {
  await hub("DELETE", api, body);
  for (let i = 0; i < 30; i += 1) {
    try {
      if (!(await hub("GET", api))?.pending) return;
    } catch (error) {
      if (error.status === 404) return;
    }
    await sleep(1000);
  }
}
