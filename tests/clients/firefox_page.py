"""A page in Firefox: `python firefox_page.py URL`, driven by `browser.py`.

It is opened over TCP, as if a person had accepted the warning about its certificate.
"""

import asyncio
import json
import sys

from firefox import Browser


async def main(url: str) -> None:
    browser = Browser({})
    try:
        await browser.start()
        await browser.open(url)
        say({"value": None})
        while line := await asyncio.to_thread(sys.stdin.readline):
            say({"value": await browser.evaluate(json.loads(line))})
    except Exception as error:
        say({"error": f"{type(error).__name__}: {error}"})
    finally:
        await browser.close()


def say(message: dict[str, object]) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
