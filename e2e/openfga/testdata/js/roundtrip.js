// OpenFGA's JavaScript SDK as its users set it up, with a URL and a token. Node
// trusts the local CA by NODE_EXTRA_CA_CERTS.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { CredentialsMethod, FgaApiAuthenticationError, FgaApiNotFoundError, FgaApiValidationError, OpenFgaClient } from "@openfga/sdk";

const [apiUrl, token, modelFile] = [process.env.API_URL, process.env.API_TOKEN, process.argv[2]];
const connect = (token) => new OpenFgaClient({ apiUrl, credentials: { method: CredentialsMethod.ApiToken, config: { token } } });
const key = (t) => `${t.object}#${t.relation}@${t.user}`;

// bare leaves away the members that an answer spells out and a question need not.
const bare = (v) => Array.isArray(v) ? v.map(bare) : v === null || typeof v !== "object" ? v : Object.fromEntries(
  Object.entries(v).filter(([, x]) => x !== "" && x !== null && !(Array.isArray(x) && x.length === 0)).map(([k, x]) => [k, bare(x)]));

const fga = connect(token);
const { id } = await fga.createStore({ name: "round-trip-js" });
fga.storeId = id;
assert.equal((await fga.getStore()).name, "round-trip-js");

const model = JSON.parse(readFileSync(modelFile, "utf8"));
const { authorization_model_id } = await fga.writeAuthorizationModel(model);
fga.authorizationModelId = authorization_model_id;
const { id: modelId, ...read } = bare((await fga.readAuthorizationModel()).authorization_model);
assert.equal(modelId, authorization_model_id);
assert.deepEqual(read, bare(model));
assert.deepEqual((await fga.readAuthorizationModels()).authorization_models.map((m) => m.id), [modelId]);
assert.equal((await fga.readLatestAuthorizationModel()).authorization_model.id, modelId);

await fga.write({
  writes: [
    { user: "user:anne", relation: "member", object: "group:eng" },
    { user: "group:eng#member", relation: "viewer", object: "folder:plans" },
    { user: "folder:plans", relation: "parent", object: "document:roadmap" },
    { user: "user:bob", relation: "editor", object: "document:roadmap" },
    { user: "user:*", relation: "viewer", object: "document:public" },
    { user: "user:carl", relation: "viewer", object: "document:roadmap", condition: { name: "in_region", context: { allowed: "eu" } } },
  ],
});

const dora = [{ user: "user:dora", relation: "member", object: "group:eng" }];
const questions = [
  [{ user: "user:anne", relation: "viewer", object: "document:roadmap" }, true],
  [{ user: "user:anne", relation: "editor", object: "document:roadmap" }, false],
  [{ user: "user:dora", relation: "viewer", object: "document:public" }, true],
  [{ user: "user:carl", relation: "viewer", object: "document:roadmap", context: { region: "eu" } }, true],
  [{ user: "user:carl", relation: "viewer", object: "document:roadmap", context: { region: "us" } }, false],
  [{ user: "user:dora", relation: "viewer", object: "document:roadmap", contextualTuples: dora }, true],
];
for (const [q, want] of questions) assert.equal((await fga.check(q)).allowed, want, JSON.stringify(q));

// One of them cannot be answered; the others are.
const checks = questions.map(([q], i) => ({ ...q, correlationId: `q${i}`, contextualTuples: q.contextualTuples && { tuple_keys: q.contextualTuples } }));
const { result } = await fga.batchCheck({ checks: [...checks, { user: "user:anne", relation: "owner", object: "document:roadmap", correlationId: "bad" }] });
assert.equal(result.length, questions.length + 1);
const byId = Object.fromEntries(result.map((r) => [r.correlationId, r]));
questions.forEach(([q, want], i) => assert.equal(byId[`q${i}`].allowed, want, JSON.stringify(q)));
assert.equal(byId.bad.error.input_error, "validation_error");

const ofAnne = { user: "user:anne", relation: "viewer", type: "document" };
const annes = ["document:public", "document:roadmap"];
assert.deepEqual((await fga.listObjects(ofAnne)).objects.sort(), annes);
const streamed = [];
for await (const { object } of fga.streamedListObjects(ofAnne)) streamed.push(object);
assert.deepEqual(streamed.sort(), annes);

const { users } = await fga.listUsers({
  object: { type: "document", id: "roadmap" }, relation: "viewer", user_filters: [{ type: "user" }], context: { region: "eu" },
});
assert.deepEqual(users.map((u) => `${u.object.type}:${u.object.id}`).sort(), ["user:anne", "user:bob", "user:carl"]);
assert.deepEqual((await fga.listRelations({ user: "user:bob", object: "document:roadmap", relations: ["editor", "viewer", "parent"] })).relations.sort(),
  ["editor", "viewer"]);

const name = "document:roadmap#viewer";
assert.deepEqual(bare((await fga.expand({ relation: "viewer", object: "document:roadmap" })).tree), {
  root: { name, union: { nodes: [
    { name, leaf: { users: { users: ["user:carl"] } } },
    { name, leaf: { computed: { userset: "document:roadmap#editor" } } },
    { name, leaf: { tupleToUserset: { tupleset: "document:roadmap#parent", computed: [{ userset: "folder:plans#viewer" }] } } },
  ] } },
});

await fga.write({ deletes: [{ user: "user:*", relation: "viewer", object: "document:public" }] });
const tuples = [];
for (let continuationToken; continuationToken !== "";) {
  const page = await fga.read({}, { pageSize: 2, continuationToken });
  assert(page.tuples.length <= 2);
  tuples.push(...page.tuples.map((t) => key(t.key)));
  continuationToken = page.continuation_token;
}
assert.deepEqual(tuples.sort(), [
  "document:roadmap#editor@user:bob", "document:roadmap#parent@folder:plans", "document:roadmap#viewer@user:carl",
  "folder:plans#viewer@group:eng#member", "group:eng#member@user:anne",
]);
assert.deepEqual((await fga.readChanges({ type: "document" })).changes.map((c) => `${c.operation} ${key(c.tuple_key)}`), [
  "TUPLE_OPERATION_WRITE document:roadmap#parent@folder:plans", "TUPLE_OPERATION_WRITE document:roadmap#editor@user:bob",
  "TUPLE_OPERATION_WRITE document:public#viewer@user:*", "TUPLE_OPERATION_WRITE document:roadmap#viewer@user:carl",
  "TUPLE_OPERATION_DELETE document:public#viewer@user:*",
]);

// Writing what is there is an error, unless the caller says that it is none.
const bob = { user: "user:bob", relation: "editor", object: "document:roadmap" };
await assert.rejects(fga.write({ writes: [bob] }), (e) => e instanceof FgaApiValidationError && e.apiErrorCode === "write_failed_due_to_invalid_input");
await fga.write({ writes: [bob] }, { conflict: { onDuplicateWrites: "ignore" } });
await assert.rejects(fga.check({ ...bob, relation: "owner" }), (e) => e instanceof FgaApiValidationError && e.apiErrorCode === "validation_error");

const assertions = [
  { user: "user:anne", relation: "viewer", object: "document:roadmap", expectation: true },
  { user: "user:anne", relation: "editor", object: "document:roadmap", expectation: false },
];
await fga.writeAssertions(assertions);
assert.deepEqual((await fga.readAssertions()).assertions.map((a) => ({ ...a.tuple_key, expectation: a.expectation })), assertions);

await assert.rejects(connect("forged").listStores(), FgaApiAuthenticationError);
const listed = async () => (await fga.listStores({ name: "round-trip-js" })).stores.some((s) => s.id === id);
assert(await listed());
await fga.deleteStore();
assert(!await listed());
await assert.rejects(fga.getStore(), FgaApiNotFoundError);
await assert.rejects(fga.check(bob), FgaApiNotFoundError);
console.log("the round trip is complete");
