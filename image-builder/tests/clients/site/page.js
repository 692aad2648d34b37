// What a browser sees of this site, looked at from inside the page: each check ends as a line of the page, `passed ...` or `FAILED ...`.
// numbers.json, noise.bin and sound.wav are written by the test.

function is(what, found, wanted) {
    if (found !== wanted) throw new Error(`${what}: ${JSON.stringify(found)}, not ${JSON.stringify(wanted)}`);
}

const element = (id) => document.getElementById(id);

// Waits for what has no event of its own.
async function until(what, condition) {
    for (let turn = 0; !condition(); turn++) {
        if (turn === 600) throw new Error(`${what}: not within a minute`);
        await new Promise((resolve) => setTimeout(resolve, 100));
    }
}

function event(target, name) {
    return new Promise((resolve, reject) => {
        target.addEventListener(name, resolve, { once: true });
        target.addEventListener("error", () => reject(new Error(`error, not ${name}`)), { once: true });
    });
}

const checks = {
    async stylesheet() {
        const style = getComputedStyle(element("styled"));
        is("colour", style.color, "rgb(1, 2, 3)");
        is("width", element("styled").getBoundingClientRect().width, 321);
    },
    async picture() {
        const picture = element("picture");
        await picture.decode();
        const context = new OffscreenCanvas(64, 32).getContext("2d");
        context.drawImage(picture, 0, 0);
        is("a pixel of it", String(context.getImageData(32, 16, 1, 1).data), "0,170,119,255");
    },
    async compressed() {
        const answer = await fetch("data/numbers.json", { cache: "reload" });
        is("coding", answer.headers.get("content-encoding"), "gzip");
        is("vary", answer.headers.get("vary"), "Accept-Encoding");
        const numbers = await answer.json();
        is("sum", numbers.reduce((sum, number) => sum + number, 0), 15_000 * 30_001);
    },
    async condition() {
        // The cache has it from before, asks whether it is still so, and is told in no more than a head.
        await (await fetch("look/picture.svg", { cache: "reload" })).text();
        performance.clearResourceTimings();
        const answer = await fetch("look/picture.svg", { cache: "no-cache" });
        is("content", (await answer.text()).startsWith("<svg"), true);
        await until("its entry", () => performance.getEntriesByName(answer.url).length > 0);
        const [entry] = performance.getEntriesByName(answer.url);
        is("bytes of content on the way", entry.transferSize <= 300, true);
    },
    async incompressible() {
        const bytes = new Uint8Array(await (await fetch("data/noise.bin", { cache: "reload" })).arrayBuffer());
        is("length", bytes.length, 1 << 18);
        let state = 1;
        for (const byte of bytes) {
            state = (Math.imul(state, 1103515245) + 12345) >>> 0;
            if (byte !== state >>> 24) throw new Error("a byte is another");
        }
    },
    async ranges() {
        const part = await fetch("data/numbers.json", { headers: { Range: "bytes=1-9" }, cache: "no-store" });
        is("status", part.status, 206);
        is("coding", part.headers.get("content-encoding"), null);
        is("text", await part.text(), "1,2,3,4,5");
        const beyond = await fetch("data/numbers.json", { headers: { Range: "bytes=99999999-" }, cache: "no-store" });
        is("beyond the end", beyond.status, 416);
    },
    async sound() {
        const sound = element("sound");
        await until("what it is", () => sound.readyState >= HTMLMediaElement.HAVE_METADATA || sound.error);
        is("error", sound.error?.message, undefined);
        is("seconds", sound.duration, 100);
        const there = event(sound, "seeked");
        sound.currentTime = 95;
        await there;
        is("where", sound.currentTime, 95);
    },
    async code() {
        const module = await WebAssembly.compileStreaming(fetch("data/empty.wasm", { cache: "reload" }));
        is("exports", WebAssembly.Module.exports(module).length, 0);
    },
    async folder() {
        const answer = await fetch("sub", { cache: "reload" });
        is("redirected", answer.redirected, true);
        is("place", new URL(answer.url).pathname, "/sub/");
        const below = () => element("below").contentDocument;
        await until("the script below", () => below()?.body?.dataset.small);
        is("place below", below().location.pathname, "/sub/");
        is("characters", below().characterSet, "UTF-8");
        is("greeting", below().getElementById("greeting").textContent, "Grüße, 世界");
        is("word", below().body.dataset.small, "small");
    },
    async refusals() {
        const missing = await fetch("missing.json", { cache: "reload" });
        is("missing", missing.status, 404);
        is("in words", await missing.text(), "404 Not Found\n");
        const posted = await fetch("data/small.json", { method: "POST", body: "x".repeat(1000) });
        is("posted", posted.status, 405);
        is("allowed", posted.headers.get("allow"), "GET, HEAD, OPTIONS");
        is("after it", (await fetch("data/small.json", { cache: "reload" })).status, 200);
    },
    async parallel() {
        const numbers = Array.from({ length: 24 }, (_, number) => number);
        const lengths = await Promise.all(numbers.map(async (number) => {
            const answer = await fetch(`data/numbers.json?${number}`, { cache: "no-store" });
            return (await answer.text()).length;
        }));
        is("lengths", new Set(lengths).size, 1);
    },
};

const lines = [];
for (const [name, check] of Object.entries(checks)) {
    try {
        await check();
        lines.push(`passed ${name}`);
    } catch (error) {
        lines.push(`FAILED ${name}: ${error.message}`);
    }
    element("outcome").textContent = lines.join("\n");
}
document.documentElement.dataset.state = "done";
