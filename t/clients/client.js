// SPDX-License-Identifier: Apache-2.0
// node's http, https and http2 as clients of t/43-client-libraries.t: Hybrid::Library says what is asked and answered.
'use strict';
const http = require('http'), https = require('https'), http2 = require('http2'), readline = require('readline');

const [url, protocol, count] = process.argv.slice(2);
const place = new URL(url), clients = Number(count), body = 'x'.repeat(500);
const library = place.protocol === 'https:' ? https : http;
const agent = new library.Agent({ keepAlive: true, maxSockets: clients, rejectUnauthorized: false });

function ask1(method) {
    return new Promise((resolve, reject) => {
        const headers = method === 'POST' ? { 'Content-Length': body.length } : {};
        const request = library.request(url, { method, agent, headers, timeout: 30000 }, response => {
            response.on('data', () => {});
            response.on('end', () => resolve(response.statusCode));
            response.on('error', reject);
        });
        request.on('timeout', () => request.destroy(new Error('no answer in time')));
        request.on('error', reject);
        request.end(method === 'POST' ? body : undefined);
    });
}

let session;

// Who uses this library makes the next session himself.
function connected() {
    if (!session || session.closed || session.destroyed) {
        session = http2.connect(place.origin, { rejectUnauthorized: false });
        session.on('error', () => {}); // its streams have it, too
    }
    return session;
}

function ask2(method) {
    return new Promise((resolve, reject) => {
        const stream = connected().request({ ':method': method, ':path': place.pathname });
        let status;
        stream.on('response', headers => { status = headers[':status']; });
        stream.on('data', () => {});
        stream.on('end', () => status && resolve(status));
        stream.on('error', reject);
        stream.on('close', () => reject(new Error('closed, code ' + stream.rstCode)));
        stream.setTimeout(30000, () => { reject(new Error('no answer in time')); stream.close(); });
        stream.end(method === 'POST' ? body : undefined);
    });
}

async function work(number, least, end, pause, result) {
    for (let i = 0; i < least || Date.now() < end; i++) {
        const method = (i + number) % 2 ? 'POST' : 'GET';
        let why;
        try {
            const status = await (protocol === 'h2' ? ask2 : ask1)(method);
            if (status !== 200)
                why = String(status);
        } catch (problem) {
            why = (problem.code || '') + ' ' + problem.message;
        }
        if (why === undefined)
            result.answered++;
        else
            result.failed[method + ' ' + why] = (result.failed[method + ' ' + why] || 0) + 1;
        if (pause)
            await new Promise(resolve => setTimeout(resolve, Math.random() * pause));
    }
}

(async () => {
    for await (const line of readline.createInterface({ input: process.stdin })) {
        const [least, seconds, pause] = line.split(' ').map(Number), result = { answered: 0, failed: {} };
        const end = Date.now() + seconds * 1000;
        await Promise.all(Array.from({ length: clients }, (_, number) => work(number, least, end, pause, result)));
        console.log(JSON.stringify(result));
    }
    process.exit(0);
})();
