// Asks the server for a file twenty times a second, each time anew, and keeps when it was answered and when it wasn't: in seconds since 1970.
const now = () => (performance.timeOrigin + performance.now()) / 1000;

window.answered = [];
window.failed = [];
for (let number = 0; ; number++) {
    try {
        const answer = await fetch(`data/small.json?${number}`, { cache: "no-store" });
        if ((await answer.json()).word !== "small") throw new Error("another answer");
        window.answered.push(now());
    } catch (error) {
        window.failed.push({ at: now(), why: error.message });
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
}
