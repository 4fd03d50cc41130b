// openai-node: chat completions (default) or responses (`node openai_node.cjs responses`).
const OpenAI = require("openai");

const MODEL = "gpt-4o-mini";
const parameters = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
};
const description = "The weather in a city.";
const schema = {
  type: "object",
  properties: { city: { type: "string" }, degrees: { type: "integer" } },
  required: ["city", "degrees"],
  additionalProperties: false,
};
const getWeather = ({ city }) => `It is sunny in ${city}, 21 degrees.`;
const client = new OpenAI();

const chat = {
  plain: async (question) => {
    const answer = await client.chat.completions.create({
      model: MODEL,
      messages: [{ role: "user", content: question }],
    });
    return [answer.choices[0].message.content, answer.choices[0].finish_reason, answer.usage];
  },
  streamed: async (question) => {
    const stream = await client.chat.completions.create({
      model: MODEL,
      messages: [{ role: "user", content: question }],
      stream: true,
    });
    const seen = { text: "", pieces: 0, finish: [], usage: [] };
    for await (const chunk of stream) {
      if (chunk.usage) seen.usage.push(chunk.usage);
      for (const choice of chunk.choices) {
        if (choice.delta.content) seen.pieces += 1;
        seen.text += choice.delta.content ?? "";
        if (choice.finish_reason) seen.finish.push(choice.finish_reason);
      }
    }
    return seen;
  },
  tools: async (question) => {
    const runner = client.chat.completions.runTools({
      model: MODEL,
      messages: [{ role: "user", content: question }],
      tools: [tool()],
    });
    return { text: await runner.finalContent(), messages: runner.messages };
  },
  "tools-streamed": async (question) => {
    const runner = client.chat.completions.runTools({
      model: MODEL,
      messages: [{ role: "user", content: question }],
      tools: [tool()],
      stream: true,
    });
    return { text: await runner.finalContent(), messages: runner.messages };
  },
  structured: async (question) => {
    const answer = await client.chat.completions.parse({
      model: MODEL,
      messages: [{ role: "user", content: question }],
      response_format: { type: "json_schema", json_schema: { name: "weather", strict: true, schema } },
    });
    return JSON.parse(answer.choices[0].message.content);
  },
};

const responses = {
  plain: async (question) => {
    const answer = await client.responses.create({ model: MODEL, input: question });
    return [answer.output_text, answer.status, answer.usage];
  },
  streamed: async (question) => {
    const stream = client.responses.stream({ model: MODEL, input: question });
    const kinds = [];
    let text = "";
    for await (const event of stream) {
      if (kinds.at(-1) !== event.type) kinds.push(event.type);
      if (event.type === "response.output_text.delta") text += event.delta;
    }
    return { text, kinds, final: (await stream.finalResponse()).output_text };
  },
  tools: async (question) => {
    const input = [{ role: "user", content: question }];
    const tools = [{ type: "function", name: "get_weather", description, parameters, strict: true }];
    const seen = [];
    for (let turn = 0; turn < 2; turn += 1) {
      const answer = await client.responses.create({ model: MODEL, input, tools });
      seen.push(answer.output);
      input.push(...answer.output);
      for (const item of answer.output.filter((item) => item.type === "function_call")) {
        const output = getWeather(JSON.parse(item.arguments));
        input.push({ type: "function_call_output", call_id: item.call_id, output });
      }
    }
    return seen;
  },
};

function tool() {
  return {
    type: "function",
    function: { name: "get_weather", description, parameters, parse: JSON.parse, function: getWeather },
  };
}

async function main() {
  const seen = {};
  for (const [name, play] of Object.entries(process.argv[2] === "responses" ? responses : chat)) {
    try {
      seen[name] = await play(`Scenario ${name}: what is the weather in Paris today?`);
    } catch (error) {
      seen[name] = { error: error.constructor.name, status: error.status ?? null, text: String(error) };
    }
  }
  process.stdout.write("\n" + JSON.stringify(seen) + "\n");
}

main();
