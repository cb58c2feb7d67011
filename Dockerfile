# One image for every process of a federation; docker/entrypoint.sh has its roles, docs/guides/deployment.md
# the rest.
#
#   docker build --build-arg TORCH_INDEX_URL=<address> --tag potara-flwr .
#
# The address is that of PyTorch's CPU wheels: pytorch.org/get-started shows it for "CPU".

FROM python:3.11-slim-bookworm AS builder
ARG TORCH_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /requirements
RUN python -m venv /opt/potara
ENV PATH=/opt/potara/bin:$PATH
# Packages first: they are built anew only when the versions change, not with every change of code.
COPY pyproject.toml constraints.txt docker/requirements.py ./
RUN pip install --extra-index-url "$TORCH_INDEX_URL" --constraint constraints.txt torch \
    && python -c "import torch, sys; sys.exit('torch comes with CUDA: give TORCH_INDEX_URL' if torch.version.cuda else 0)"
RUN python requirements.py pyproject.toml > requirements.txt \
    && pip install --constraint constraints.txt --requirement requirements.txt
WORKDIR /app
COPY . .
RUN pip install --no-deps --editable .

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="Potara on Flower" \
      org.opencontainers.image.description="Personalized federated LoRA: SuperLink, superexec, SuperNode, run" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
# The folders belong to the user, and so will new volumes that are mounted on them.
RUN useradd --uid 10001 --home-dir /var/lib/potara --create-home potara \
    && install --directory --owner potara --mode 700 /credentials
COPY --from=builder /opt/potara /opt/potara
COPY --from=builder /app /app
ENV PATH=/opt/potara/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    FLWR_HOME=/var/lib/potara/flwr \
    FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1 \
    FLWR_DISABLE_UPDATE_CHECK=1 \
    FLWR_TELEMETRY_ENABLED=0 \
    FLWR_SUPEREXEC_TASK_POLL_INTERVAL=0.1 \
    HF_HOME=/var/lib/potara/huggingface
USER 10001
WORKDIR /var/lib/potara
VOLUME /var/lib/potara
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
    CMD ["python", "/app/docker/health.py"]
ENTRYPOINT ["/app/docker/entrypoint.sh"]
CMD ["--help"]
