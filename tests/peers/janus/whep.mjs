// WHEP in front of Janus: http://…:7090/whep/endpoint/0, 1, … for its mountpoints 1, 2, …
// Arguments: the directory in which `npm install --prefix` put janus-whep-server, and the number of streams.
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [directory, streams] = process.argv.slice(2);
const resolve = createRequire(`${directory}/package.json`).resolve;
const { JanusWhepServer } = await import(pathToFileURL(resolve('janus-whep-server')));

const server = new JanusWhepServer({
	janus: { address: 'ws://127.0.0.1:8188' },
	rest: { port: 7090, basePath: '/whep' },
});
await server.start();
for (let stream = 0; stream < Number(streams); stream++) {
	server.createEndpoint({ id: String(stream), mountpoint: stream + 1 });
}
