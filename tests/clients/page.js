// What a page of the service does for the matrix: evaluated in a browser, it resolves to answers.
async ({ requests }) => {
  const hex = async (data) =>
    [...new Uint8Array(await crypto.subtle.digest("SHA-256", data))]
      .map((byte) => byte.toString(16).padStart(2, "0"))
      .join("");

  // getRandomValues gives 64 KB at most.
  const random = (size) => {
    const body = new Uint8Array(size);
    for (let at = 0; at < size; at += 65536) crypto.getRandomValues(body.subarray(at, at + 65536));
    return body;
  };

  const one = async ({ url, size }) => {
    const posted = size === undefined ? undefined : random(size);
    const sent = posted ? await hex(posted) : "";
    const answer = { status: 0, pid: 0, size: 0, sha256: "", text: "", error: "" };
    try {
      const options = posted ? { method: "POST", body: posted } : {};
      const response = await fetch(url, { ...options, cache: "no-store" });
      const body = await response.arrayBuffer();
      answer.status = response.status;
      answer.pid = Number(response.headers.get("x-pid"));
      answer.size = body.byteLength;
      answer.sha256 = await hex(body);
      if (body.byteLength <= 200) answer.text = new TextDecoder("latin1").decode(body);
    } catch (error) {
      answer.error = String(error);
    }
    return { answer, sent };
  };
  const outcomes = await Promise.all(requests.map(one));
  return { answers: outcomes.map(({ answer }) => answer), sent: outcomes[0].sent };
}
