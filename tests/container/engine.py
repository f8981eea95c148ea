"""Docker or podman, driven by its command line."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Engine:
    """The part of the command line that docker and podman have in common."""

    command: str

    @staticmethod
    def find() -> Engine | None:
        """Return the engine that is installed and answers."""
        for command in ("docker", "podman"):
            if shutil.which(command) and Engine(command).succeeds("info"):
                return Engine(command)
        return None

    def succeeds(self, *arguments: str) -> bool:
        """Return whether a command exits with 0."""
        done = subprocess.run([self.command, *arguments], capture_output=True, check=False)
        return done.returncode == 0

    def output(self, *arguments: str) -> str:
        """Return what a command prints. Raise AssertionError with its output if it fails."""
        done = subprocess.run([self.command, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{self.command} {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def build(self, context: Path, tag: str, python_image: str) -> None:
        """Build the context's Dockerfile."""
        # podman's own format has no HEALTHCHECK.
        form = ["--format=docker"] if self.command == "podman" else []
        self.output("build", *form, "--build-arg", f"PYTHON_IMAGE={python_image}", "--tag", tag, str(context))

    def has_or_pulls(self, image: str) -> bool:
        """Return whether an image is here or can be fetched."""
        return self.succeeds("image", "inspect", image) or self.succeeds("pull", "--quiet", image)

    def image(self, tag: str) -> dict[str, Any]:
        """Return an image's configuration."""
        return cast("dict[str, Any]", json.loads(self.output("image", "inspect", tag))[0])

    @property
    def read_only(self) -> list[str]:
        """The options that make every folder but the volumes read-only. podman would leave /tmp and others writable."""
        return ["--read-only", *(["--read-only-tmpfs=false"] if self.command == "podman" else [])]

    def start(self, image: str, *options: str, command: tuple[str, ...] = ()) -> Container:
        """Run an image in the background. Tests run its health checks, because podman leaves them to systemd."""
        started = self.output("run", "--detach", "--no-healthcheck", *options, image, *command)
        return Container(self, started.splitlines()[-1])


@dataclass(frozen=True)
class Container:
    """A container, running or stopped."""

    engine: Engine
    id: str

    def address(self, port: int) -> str:
        """Return the address of a published port, as HOST:PORT."""
        published = self.engine.output("port", self.id, f"{port}/tcp")
        assert published, self.logs()
        return published.splitlines()[0]

    def succeeds(self, *command: str) -> bool:
        """Return whether a command inside the container exits with 0."""
        return self.engine.succeeds("exec", self.id, *command)

    def output(self, *command: str) -> str:
        """Return what a command inside the container prints. Raise AssertionError with its output if it fails."""
        return self.engine.output("exec", self.id, *command)

    def background(self, *command: str) -> None:
        """Start a command inside the container."""
        self.engine.output("exec", "--detach", self.id, *command)

    def running(self) -> bool:
        """Return whether the container's process is running."""
        return self.engine.output("inspect", "--format", "{{.State.Running}}", self.id) == "true"

    def logs(self) -> str:
        """Return what the container wrote to its standard output and error."""
        done = subprocess.run([self.engine.command, "logs", self.id], capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def stop(self) -> int:
        """Stop the container as Kubernetes does, and return its exit code: 137 is SIGKILL after 30 seconds."""
        self.engine.output("stop", "--time", "30", self.id)
        return int(self.engine.output("inspect", "--format", "{{.State.ExitCode}}", self.id))

    def kill(self) -> None:
        """Send SIGKILL."""
        self.engine.output("kill", "--signal", "KILL", self.id)

    def remove(self) -> None:
        """Remove the container and its volumes."""
        self.engine.succeeds("rm", "--force", "--volumes", self.id)
