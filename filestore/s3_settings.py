"""What the S3 backend is told: AWS's own variables, and three of ours for what these don't know."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filestore.bucket import Bucket, Place, SharedFile
from filestore.sigv4 import Credentials
from kit.settings import BadSettings, MeshSettings, absolute, env, flag, web_address


class Secret(str):
    """A word that isn't shown with the settings that hold it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'…'"


@dataclass(frozen=True)
class S3Settings(MeshSettings):
    """Heeded only where RUNMESH_FILES_URL names a bucket."""

    s3_endpoint: str = env("AWS_ENDPOINT_URL_S3", "")
    aws_endpoint: str = env("AWS_ENDPOINT_URL", "")
    s3_public_endpoint: str = env("RUNMESH_S3_PUBLIC_ENDPOINT", "", web_address)
    s3_path_style: bool = env("RUNMESH_S3_PATH_STYLE", True, flag)
    s3_redirect: bool = env("RUNMESH_S3_REDIRECT", True, flag)
    aws_region: str = env("AWS_REGION", "")
    aws_default_region: str = env("AWS_DEFAULT_REGION", "")
    access_key_id: str = env("AWS_ACCESS_KEY_ID", "")
    secret_access_key: Secret = env("AWS_SECRET_ACCESS_KEY", Secret(), Secret)
    session_token: Secret = env("AWS_SESSION_TOKEN", Secret(), Secret)
    shared_credentials: Path | None = env("AWS_SHARED_CREDENTIALS_FILE", None, absolute)
    aws_profile: str = env("AWS_PROFILE", "default")

    def bucket(self, place: Place) -> Bucket:
        """Errors: BadSettings."""
        endpoint = self.s3_endpoint or self.aws_endpoint
        try:
            credentials = self._credentials()
            return Bucket(
                place,
                region=self.aws_region or self.aws_default_region or "us-east-1",
                endpoint=web_address(endpoint).rstrip("/") if endpoint else "",
                public_endpoint=self.s3_public_endpoint.rstrip("/"),
                path_style=self.s3_path_style,
                redirect=self.s3_redirect,
                credentials=credentials,
            )
        except ValueError as error:
            raise BadSettings([str(error)]) from None

    def _credentials(self) -> Callable[[], Credentials] | None:
        if bool(self.access_key_id) != bool(self.secret_access_key):
            raise ValueError("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: set both, or neither")
        if self.access_key_id:
            fixed = Credentials(self.access_key_id, str(self.secret_access_key), str(self.session_token))
            return lambda: fixed
        if self.shared_credentials:
            shared = SharedFile(self.shared_credentials, self.aws_profile)
            shared()  # told at the start, if it can't be read
            return shared
        return None
