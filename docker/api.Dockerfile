# The API, and the migrations. No machine learning in here, and no compiler.
FROM python:3.12-slim-bookworm AS build
RUN python -m venv --without-pip /opt/venv
COPY requirements/api.txt /tmp/
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/venv/bin/python --disable-pip-version-check install --require-hashes -r /tmp/api.txt
WORKDIR /srv/postroom
COPY docker/healthy.py /usr/local/bin/
COPY migrations migrations
COPY shared shared
COPY api api
# Whatever umask the files were checked out with.
RUN chmod -R a+rX . /usr/local/bin/healthy.py && python -m compileall -q .

FROM python:3.12-slim-bookworm
RUN useradd --uid 10001 --home-dir /srv/postroom --shell /usr/sbin/nologin postroom
COPY --from=build /opt/venv /opt/venv
COPY --from=build /usr/local/bin/healthy.py /usr/local/bin/
COPY --from=build /srv/postroom /srv/postroom
WORKDIR /srv/postroom
USER 10001:10001
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    API_HOST=0.0.0.0
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s \
    CMD ["python", "/usr/local/bin/healthy.py", "answers", "8000", "/livez"]
CMD ["python", "-m", "api"]
