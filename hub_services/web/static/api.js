// Calls to the API with the page's XSRF token.

const meta = (name) => document.querySelector(`meta[name=${name}]`).content;

/** What was refused, with a field called as the form calls it. */
export function refusal(error, form) {
  return error.message.replace(/^(\w+)[\w.]*: /, (all, name) => {
    const field = [...form.elements].find((each) => each.name === name && !each.matches(":disabled"));
    const label = field?.labels?.[0]?.textContent.trim();
    return label ? `${label}: ` : all;
  });
}

/** The API's answer, or an Error whose text a person may read. With a key it is done only once. */
export async function call(method, path, body, key) {
  const headers = { Accept: "application/json", "X-XSRFToken": meta("xsrf") };
  if (key) headers["Idempotency-Key"] = key;
  if (body) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(meta("api") + path, { method, headers, body: body && JSON.stringify(body) });
  } catch {
    throw Object.assign(new Error("The platform does not answer. Try again in a moment."), { status: 0 });
  }
  const text = await answer.text();
  let data = null;
  try { data = text ? JSON.parse(text) : null; } catch { /* not JSON: the proxy's own page */ }
  if (answer.ok) return data;
  const error = data?.error;
  const words = error ? `${error.message} ${error.hint}`.trim() : "The platform refused. Load the page again and try once more.";
  throw Object.assign(new Error(words), { field: error?.field, code: error?.code, status: answer.status, after: Number(answer.headers.get("Retry-After")) });
}
