# GamePulse. The final image is a root of its own with Python, the libraries that it needs, and the service: no shell, no
# package manager (docs/adr/0021-the-image-of-the-service.md). Bases are arguments: `make test-containers` has others.
# Of the base only python3.13 with venv, dpkg and ldd are used: docker-library/python, 3.13/slim-trixie/Dockerfile.
ARG PYTHON_IMAGE=python:3.13.13-slim-trixie

FROM ${PYTHON_IMAGE} AS tools
WORKDIR /build
# Certificates: uv and npm bring their own list, but the base's says whom to trust (a company's proxy, say).
ENV XDG_CACHE_HOME=/cache UV_LINK_MODE=copy PYTHONDONTWRITEBYTECODE=1 npm_config_cache=/cache/npm \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt
COPY requirements.lock requirements-dev.lock ./
# pip fetches only uv, as the lock names it, and uv the rest: as in the Makefile.
RUN --mount=type=cache,target=/cache python3.13 -m venv venv && \
    sed -n '/^uv==/,/[^\\]$/p' requirements-dev.lock > uv.lock && \
    venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r uv.lock && \
    grep -oE '^(hatchling|cyclonedx-python-lib)==\S+' requirements-dev.lock > tools.txt && \
    venv/bin/uv pip install --quiet --python venv --require-hashes -c requirements-dev.lock -r tools.txt && \
    grep -oE '^(httpx|stamina)==\S+' requirements-dev.lock > demo.txt && \
    venv/bin/uv pip install --quiet --require-hashes -c requirements-dev.lock -r demo.txt --target demo && \
    grep -oE '^(boto3|s3transfer)==\S+' requirements-dev.lock > operations.txt && \
    venv/bin/uv pip install --quiet --require-hashes --no-deps -c requirements-dev.lock -r operations.txt --target aws && \
    venv/bin/uv pip install --quiet --require-hashes -r requirements.lock --target packages

FROM tools AS build
COPY stack/__init__.py stack/web.py stack/settings.py stack/node.lock stack/
COPY web web
RUN --mount=type=cache,target=/cache venv/bin/python -m stack.web build
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN venv/bin/uv pip install --quiet --python venv --no-deps --no-build-isolation --offline --target service .
COPY stack stack
COPY data data
COPY operations operations
COPY docker/rds-roots.pem docker/
ARG SOURCE_DATE_EPOCH=0
RUN venv/bin/python -m stack.image

FROM scratch AS root
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="GamePulse" \
      org.opencontainers.image.description="Live, exact quality of players' connections" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /root/runtime /
COPY --from=build /root/service /
ENV PATH=/usr/bin PYTHONPATH=/opt/gamepulse PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 GAMEPULSE_HOST=0.0.0.0 \
    GAMEPULSE_REVISION=${REVISION} \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
# On Fargate an empty volume belongs to the user of the image only where the image says that it has one there.
VOLUME ["/tmp"]
STOPSIGNAL SIGTERM

# What compose needs beside it: the players of the demo, and the step that makes the keys. Not on top of `gamepulse`: with a
# health check that was taken back (`NONE`), `docker compose up --wait` would not take it as running.
FROM root AS demo
COPY --from=build /root/demo /
ENV PYTHONPATH=/opt/gamepulse:/opt/demo
WORKDIR /opt/demo
USER 10101:10101
ENTRYPOINT ["/usr/bin/python", "-m"]
CMD ["stack.replay", "--home", "/run/keys/demo"]

# What is done to a deployment beside serving: databases and logins, copies and backups of the metrics, new passwords.
FROM root AS operations
COPY --from=build /root/operations /
COPY --from=build --chown=65534:65534 /root/empty /prometheus
VOLUME ["/prometheus"]
USER 10100:10100
ENTRYPOINT ["/usr/bin/python", "-m", "operations"]
CMD ["--help"]

FROM root AS gamepulse
USER 10100:10100
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["/usr/bin/python", "-m", "gamepulse.probe"]
ENTRYPOINT ["/usr/bin/python", "-m", "gamepulse"]
CMD ["serve"]
