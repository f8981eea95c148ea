# docker build -t workflow-engine .
# docker run -p 3000:3000 -p 50051:50051 -v mendflow:/data workflow-engine
ARG PYTHON_IMAGE=docker.io/library/python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
RUN python -m venv /opt/mendflow
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY server server
RUN /opt/mendflow/bin/python -m pip install --no-cache-dir --disable-pip-version-check ".[server,postgres,examples]"

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="Mendflow" \
      org.opencontainers.image.description="A workflow engine: durable steps, retries and recovery behind one gRPC server" \
      org.opencontainers.image.licenses="Apache-2.0"
# A volume's files and Kubernetes' runAsUser use the number, not the name.
RUN groupadd --gid 10001 mendflow \
    && useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin mendflow \
    && install --directory --owner=10001 --group=10001 /data
# It belongs to the image's user, so that an image built on this one can run `pip install` without becoming root.
COPY --from=build --chown=10001:10001 /opt/mendflow /opt/mendflow
# Python imports workflow modules from /app. Mount your own there, or copy them into an image built on this one.
WORKDIR /app
COPY examples examples
# The files that the examples write into the working directory. Only the volume is writable.
RUN ln -s /data/ledger.db /data/mailbox.jsonl /data/.demo .
ENV PATH=/opt/mendflow/bin:$PATH \
    HOME=/data \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    MENDFLOW_STORE=sqlite:////data/mendflow.db \
    MENDFLOW_GRPC_ADDRESS=0.0.0.0:50051 \
    MENDFLOW_HTTP_ADDRESS=0.0.0.0:3000
# No client outside the container reaches its loopback, so the server listens beyond it, without TLS and authentication.
# Every client that reaches 50051 can start, read and end every workflow. Publish the ports to trusted networks only.
ENV MENDFLOW_INSECURE=1
USER 10001:10001
VOLUME /data
EXPOSE 3000 50051
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:3000/health', timeout=4)"]
ENTRYPOINT ["mendflow"]
CMD ["serve", "examples.campaign", "examples.order"]
