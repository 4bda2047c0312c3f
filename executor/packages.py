"""What packages are called, where that isn't what one imports. Pure."""

import sys
from difflib import get_close_matches

# By what is imported; of several packages the one that needs the least.
PACKAGE_OF = {
    "Crypto": "pycryptodome",
    "MySQLdb": "mysqlclient",
    "OpenSSL": "pyopenssl",
    "PIL": "pillow",
    "attr": "attrs",
    "bs4": "beautifulsoup4",
    "codewords_client": "codewords-client",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "discord": "discord.py",
    "docx": "python-docx",
    "dotenv": "python-dotenv",
    "fitz": "pymupdf",
    "github": "pygithub",
    "git": "gitpython",
    "google.generativeai": "google-generativeai",
    "google.genai": "google-genai",
    "google.cloud.storage": "google-cloud-storage",
    "googleapiclient": "google-api-python-client",
    "jose": "python-jose",
    "jwt": "pyjwt",
    "kafka": "kafka-python",
    "ldap": "python-ldap",
    "magic": "python-magic",
    "markdown": "markdown",
    "multipart": "python-multipart",
    "nacl": "pynacl",
    "pkg_resources": "setuptools",
    "pptx": "python-pptx",
    "psycopg2": "psycopg2-binary",
    "pydantic_settings": "pydantic-settings",
    "serial": "pyserial",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "slack_sdk": "slack-sdk",
    "slugify": "python-slugify",
    "socks": "pysocks",
    "telegram": "python-telegram-bot",
    "usb": "pyusb",
    "websocket": "websocket-client",
    "yaml": "pyyaml",
    "zmq": "pyzmq",
}
# What a misspelled name is likely to mean.
_OFTEN = (
    *("fastapi", "uvicorn", "starlette", "pydantic", "httpx", "requests", "aiohttp", "numpy", "pandas", "openai"),
    *("anthropic", "google-genai", "langchain", "sqlalchemy", "asyncpg", "psycopg", "redis", "pymongo", "boto3"),
    *("jinja2", "structlog", "matplotlib", "scipy", "tenacity", "selectolax", "lxml", "openpyxl", "tiktoken"),
    *("cryptography", "python-multipart", "email-validator", "orjson", "polars", "playwright", "transformers"),
)
# Was part of Python once.
_GONE = {"distutils": "3.12", "imp": "3.12", "asyncore": "3.12", "asynchat": "3.12", "smtpd": "3.12", "cgi": "3.13"}
_GONE |= dict.fromkeys(
    ("crypt", "telnetlib", "imghdr", "sndhdr", "pipes", "uu", "nntplib", "audioop", "xdrlib"), "3.13"
)


def package_of(module: str) -> tuple[str, bool]:
    """What to declare for `import MODULE`, and whether that is known: by the longest part of the name; otherwise the
    first part, as most packages have it.
    """
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        if known := PACKAGE_OF.get(".".join(parts[:end])):
            return known, True
    name = parts[0].replace("_", "-").lower()
    return name, name in _OFTEN


def gone_since(module: str) -> str:
    """The Python that no longer has it, `3.12`; empty for what never was part of it."""
    return _GONE.get(module.split(".", maxsplit=1)[0], "")


def meant(package: str) -> str:
    """What somebody who asked the index for this is likely to mean, as a sentence; empty when nobody can tell."""
    if package.replace("-", "_") in sys.stdlib_module_names:
        return f"`{package}` is part of Python: leave it out of `dependencies`."
    known = {name.lower().replace("_", "-"): right for name, right in PACKAGE_OF.items()}
    likely = known.get(package.lower()) or next(
        iter(get_close_matches(package.lower(), [*_OFTEN, *known.values()], 1)), ""
    )
    return f'Did you mean "{likely}"?' if likely and likely != package else ""
