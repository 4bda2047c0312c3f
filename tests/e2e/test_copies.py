"""Templates and copies of them, through the whole mesh."""

from tests.e2e.mesh import Mesh

CODE = '''\
# /// script
# dependencies = ["uvicorn"]
# ///
"""Says hello.

In plain words.
"""


async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app)
'''


def test_a_workflow_that_is_offered_as_a_template_is_copied(mesh: Mesh) -> None:
    maker, copier = mesh.new_organization("maker"), mesh.new_organization("copier")
    mesh.deploy("hello-all", CODE, maker["key"])
    name = f"{maker['id']}.hello-all"
    with mesh.http(maker["key"]) as theirs, mesh.http(copier["key"]) as mine:

        def refused(path: str, **body: str) -> tuple[int, str]:
            answer = mine.post(path, json=body) if body else mine.get(path)
            return answer.status_code, answer.json()["code"]

        for visibility in ("private", "public"):
            theirs.patch("/workflows/hello-all", json={"visibility": visibility})
            assert refused(f"/templates/{name}") == (404, "not_found")
            assert refused("/deploy", template_id=name) == (404, "not_found")
        theirs.patch("/workflows/hello-all", json={"visibility": "template"})
        found = mine.get(f"/templates/{name}").json()
        assert (found["id"], found["description"], found["code"]) == (name, "Says hello.", CODE)
        copied = mine.post("/deploy", json={"template_id": name, "name": "My own"}).json()
        assert (copied["service_id"], copied["version"]) == ("my-own", 1)
        theirs.delete("/workflows/hello-all")
        assert mine.post("/run/my-own").text == "hello"
        assert mine.get("/workflows/my-own").json()["visibility"] == "private"
        assert refused("/deploy", template_id="nothing") == (404, "not_found")
        assert refused("/deploy", template_id="person_finder", code="x") == (400, "bad_request")
