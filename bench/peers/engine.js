#!/usr/bin/env node
// Stands in for Prisma's query engine, which may be impossible to download: the HTTP protocol that Prisma's Python
// client speaks with it (queries as GraphQL), in front of the same engine compiled to WebAssembly, which the npm
// package @prisma/client carries, and node-postgres.
//
//     engine.js -p PORT       DATABASE_URL and PRISMA_DML_PATH name the database and the data model
//     engine.js --version

"use strict";

const VERSION = "query-engine 393aa359c9ad4a4bb28630fb5613f9c281cde053"; // 5.17.0
if (process.argv.includes("--version")) {
    console.log(VERSION);
    process.exit(0);
}

const fs = require("node:fs");
const http = require("node:http");
const path = require("node:path");
const { parse, Kind } = require("graphql");
const pg = require("pg");
const Result = require("pg/lib/result");
const { PrismaPg } = require("@prisma/adapter-pg");
const { bindAdapter } = require("@prisma/driver-adapter-utils");

const RUNTIME = path.join(__dirname, "node_modules", "@prisma", "client", "runtime");
const NO_TRACE = "{}";
const ACTIONS = [
    "findUnique", "findFirst", "findMany", "createOne", "createMany", "updateOne", "updateMany", "upsertOne",
    "deleteOne", "deleteMany", "aggregate", "groupBy",
];

// --- from GraphQL to the engine's JSON -------------------------------------------------------------------------------

function toValue(node) {
    switch (node.kind) {
        case Kind.OBJECT: return Object.fromEntries(node.fields.map((field) => [field.name.value, toValue(field.value)]));
        case Kind.LIST: return node.values.map(toValue);
        case Kind.INT:
        case Kind.FLOAT: return Number(node.value);
        case Kind.NULL: return null;
        default: return node.value;
    }
}

function toArguments(node) {
    return Object.fromEntries(node.arguments.map((argument) => [argument.name.value, toValue(argument.value)]));
}

function toSelection(set) {
    if (!set) return {};
    return Object.fromEntries(set.selections.map((field) => [
        field.name.value,
        field.selectionSet ? { arguments: toArguments(field), selection: toSelection(field.selectionSet) } : true,
    ]));
}

function toQuery(text, models) {
    const field = parse(text, { noLocation: true }).definitions[0].selectionSet.selections[0];
    const name = field.name.value;
    const key = field.alias ? field.alias.value : name;
    const query = { arguments: toArguments(field), selection: toSelection(field.selectionSet) };
    if (name === "queryRaw" || name === "executeRaw") return { key, raw: name === "queryRaw", body: { action: name, query } };
    for (const action of ACTIONS) {
        const modelName = name.slice(action.length).replace(/OrThrow$/, "");
        if (name.startsWith(action) && models.has(modelName)) return { key, raw: false, body: { modelName, action, query } };
    }
    throw new Error(`no such query: ${name}`);
}

// --- and back --------------------------------------------------------------------------------------------------------

function untagged(value) { // {"$type": "DateTime", "value": …} is the JSON protocol's; GraphQL has the value alone
    if (Array.isArray(value)) return value.map(untagged);
    if (value === null || typeof value !== "object") return value;
    if ("$type" in value) return value.value;
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, untagged(inner)]));
}

function rawRows(answer) { // JSON columns arrive as text
    const found = typeof answer === "string" ? JSON.parse(answer) : answer;
    found.types.forEach((type, column) => {
        if (type !== "json") return;
        for (const row of found.rows) if (typeof row[column] === "string") row[column] = JSON.parse(row[column]);
    });
    return found;
}

// --- the engine ------------------------------------------------------------------------------------------------------

// The adapter knows no columns of type name and name[], which catalogs have: they are read as text and text[].
const READ_AS = { 19: 25, 1003: 1009 };
const { addFields } = Result.prototype;
Result.prototype.addFields = function (fields) {
    for (const field of fields) field.dataTypeID = READ_AS[field.dataTypeID] ?? field.dataTypeID;
    return addFields.call(this, fields);
};

function connectionPool() {
    const url = new URL(process.env.DATABASE_URL);
    const max = Number(url.searchParams.get("connection_limit") || 10);
    url.search = ""; // its parameters are for Prisma only
    return new pg.Pool({ connectionString: url.href, max });
}

async function startEngine(model) {
    const bindings = require(path.join(RUNTIME, "query_engine_bg.postgresql.js"));
    const code = new WebAssembly.Module(fs.readFileSync(path.join(RUNTIME, "query_engine_bg.postgresql.wasm")));
    bindings.__wbg_set_wasm(new WebAssembly.Instance(code, { "./query_engine_bg.js": bindings }).exports);
    const pool = connectionPool();
    pool.on("error", (error) => console.error("pool:", error.message));
    const options = {
        datamodel: model, logLevel: "error", logQueries: false, configDir: ".", env: {}, ignoreEnvVarErrors: true,
        datasourceOverrides: {}, engineProtocol: "json",
    };
    const engine = new bindings.QueryEngine(options, (line) => console.error("engine:", line), bindAdapter(new PrismaPg(pool)));
    await engine.connect(NO_TRACE);
    return engine;
}

function readModel() { // the client's, with the generator that this engine expects
    const generator = 'generator client {\n provider = "prisma-client-js"\n previewFeatures = ["driverAdapters"]\n}';
    return fs.readFileSync(process.env.PRISMA_DML_PATH, "utf8").replace(/generator client \{[^}]*\}/, generator);
}

// --- the protocol ----------------------------------------------------------------------------------------------------

class Service {
    constructor(engine, models) {
        this.engine = engine;
        this.models = models;
    }

    async begin(options) {
        const asked = { max_wait: 2000, timeout: 60000, ...options };
        return JSON.parse(await this.engine.startTransaction(JSON.stringify(asked), NO_TRACE));
    }

    async end(id, how) {
        return JSON.parse((await this.engine[`${how}Transaction`](id, NO_TRACE)) || "{}");
    }

    async query(text, transaction) {
        const { key, raw, body } = toQuery(text, this.models);
        const answer = JSON.parse(await this.engine.query(JSON.stringify(body), NO_TRACE, transaction));
        if (answer.errors) return answer;
        const found = untagged(Object.values(answer.data)[0]);
        return { data: { [key]: raw ? rawRows(found) : found } };
    }

    async batch(queries, asTransaction, outer) {
        const own = asTransaction && !outer ? (await this.begin({})).id : undefined;
        const batchResult = [];
        for (const { query } of queries) {
            const answer = await this.query(query, own ?? outer);
            if (answer.errors) {
                if (own) await this.end(own, "rollback");
                return answer;
            }
            batchResult.push(answer);
        }
        if (own) await this.end(own, "commit");
        return { batchResult };
    }

    async answer(url, transaction, text) {
        if (url.startsWith("/status")) return { status: "ok" };
        if (url.startsWith("/metrics")) return { counters: [], gauges: [], histograms: [] };
        if (url === "/transaction/start") return this.begin(text ? JSON.parse(text) : {});
        const ending = /^\/transaction\/([^/]+)\/(commit|rollback)$/.exec(url);
        if (ending) return this.end(ending[1], ending[2]);
        const asked = JSON.parse(text);
        if (asked.batch) return this.batch(asked.batch, asked.transaction, transaction);
        return this.query(asked.query, transaction);
    }
}

function asError(error) {
    const message = String(error);
    return { errors: [{ error: message, user_facing_error: { message, is_panic: false, meta: {}, error_code: "P0000" } }] };
}

async function main() {
    const model = readModel();
    const models = new Set([...model.matchAll(/^model\s+(\w+)/gm)].map((found) => found[1]));
    const service = new Service(await startEngine(model), models);
    const port = Number(process.argv[process.argv.indexOf("-p") + 1]);
    http.createServer((request, response) => {
        const parts = [];
        request.on("data", (part) => parts.push(part));
        request.on("end", async () => {
            const text = Buffer.concat(parts).toString();
            const answer = await service.answer(request.url, request.headers["x-transaction-id"], text).catch(asError);
            if (answer.errors) console.error("refused:", JSON.stringify(answer.errors), text.slice(0, 500));
            const body = Buffer.from(JSON.stringify(answer));
            response.writeHead(200, { "content-type": "application/json", "content-length": body.length });
            response.end(body);
        });
    }).listen(port, "localhost");
}

for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(0));
main().catch((error) => {
    console.error(error);
    process.exit(1);
});
