// adreno-740: conv2d 1x8x8x16x32x3x3x1x1 float16 float16, version 4 of the family
__kernel void main_kernel(__global half* restrict conv2d_scale_ptr, __read_only image1d_buffer_t p0_ptr /* CL_HALF_FLOAT */, __read_only image1d_buffer_t p1_ptr /* CL_HALF_FLOAT */) {
  int _ptr[4];
  int _ptr_1[1];
  float4 _ptr_2[4];
  float _ptr_3[4];
  __local float _ptr_4[1024];
  float _ptr_5[16];
  int _ptr_6[1];
  float4 _ptr_7[1];
  int _ptr_8[1];
  float _ptr_9[4];
  int _ptr_10[1];
  int cse_v1 = ((convert_int(get_local_id(0))) >> 6);
  int cse_v2 = ((convert_int(get_local_id(0))) & 63);
  _ptr[0] = ((((convert_int(get_local_id(0))) >> 6) + ((((((convert_int(get_local_id(0))) >> 6) * 48) + (((convert_int(get_local_id(0))) & 3) * 12)) + (((convert_int(get_local_id(0))) & 63) >> 2)) << 8)) + ((convert_int(get_local_id(0))) << 20));
  int cse_v3 = min((int)((convert_int(get_local_id(0))) >> 6), (int)2);
  int cse_v4 = (min((int)((convert_int(get_local_id(0))) >> 6), (int)2) * 12);
  int cse_v6 = ((convert_int((convert_uint(min((int)((convert_int(get_local_id(0))) >> 6), (int)2))))) * 28);
  int v = (((convert_int((convert_uint(min((int)((convert_int(get_local_id(0))) >> 6), (int)2))))) * 28) + (min((int)((convert_int(get_local_id(0))) >> 6), (int)2) * 12));
  uint cse_v5 = (convert_uint(min((int)((convert_int(get_local_id(0))) & 63), (int)15)));
  _ptr_1[0] = (((((convert_int(((convert_uint(min((int)((convert_int(get_local_id(0))) & 63), (int)15))) >> (uint)1))) * 40) + ((convert_int((convert_uint(min((int)((convert_int(get_local_id(0))) >> 6), (int)2))))) * 28)) + ((convert_int(((convert_uint(min((int)((convert_int(get_local_id(0))) & 63), (int)15))) & (uint)1))) * 16)) + (min((int)((convert_int(get_local_id(0))) >> 6), (int)2) * 12));
  _ptr_2[0] = ((float4)(0.000000e+00f));
  _ptr_2[1] = ((float4)(0.000000e+00f));
  _ptr_2[2] = ((float4)(0.000000e+00f));
  _ptr_2[3] = ((float4)(0.000000e+00f));
  int v_1 = min((int)(((_ptr[0] >> 20) & 255) >> 6), (int)2);
  vstore4(read_imagef(p1_ptr, min((int)((((convert_int(get_group_id(1))) * 144) + ((((_ptr[0] >> 20) & 255) >> 6) * 48)) + (((_ptr[0] >> 20) & 255) & 63)), (int)1151)), 0, _ptr_3 + 0);
  barrier(CLK_LOCAL_MEM_FENCE);
  if ((((_ptr[0] >> 20) & 255) & 63) < 48) {
    vstore4((vload4(0, _ptr_3 + 0) * ((float4)(select(0.000000e+00f, 1.000000e+00f, (convert_int((((_ptr[0] >> 20) & 255) < 192)))), select(0.000000e+00f, 1.000000e+00f, (convert_int((((_ptr[0] >> 20) & 255) < 192)))), select(0.000000e+00f, 1.000000e+00f, (convert_int((((_ptr[0] >> 20) & 255) < 192)))), select(0.000000e+00f, 1.000000e+00f, (convert_int((((_ptr[0] >> 20) & 255) < 192))))))), 0, _ptr_4 + (((_ptr[0] >> 8) & 4095) * 4));
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int v_2 = 0; v_2 < 12; ++v_2) {
    vstore4(read_imagef(p0_ptr, _ptr_1[0]), 0, _ptr_5 + 0);
    vstore4(read_imagef(p0_ptr, (_ptr_1[0] + 4)), 0, _ptr_5 + 4);
    vstore4(read_imagef(p0_ptr, (_ptr_1[0] + 8)), 0, _ptr_5 + 8);
    vstore4(read_imagef(p0_ptr, (_ptr_1[0] + 12)), 0, _ptr_5 + 12);
    _ptr_6[0] = (((_ptr[0] & 255) * 48) + v_2);
    _ptr_7[0] = vload4(0, _ptr_4 + (_ptr_6[0] * 4));
    _ptr_2[0] = (_ptr_2[0] + (((float4)(_ptr_5[0])) * _ptr_7[0]));
    _ptr_2[1] = (_ptr_2[1] + (((float4)(_ptr_5[4])) * _ptr_7[0]));
    _ptr_2[2] = (_ptr_2[2] + (((float4)(_ptr_5[8])) * _ptr_7[0]));
    _ptr_2[3] = (_ptr_2[3] + (((float4)(_ptr_5[12])) * _ptr_7[0]));
    _ptr_7[0] = vload4(0, _ptr_4 + ((_ptr_6[0] * 4) + 48));
    _ptr_2[0] = (_ptr_2[0] + (((float4)(_ptr_5[1])) * _ptr_7[0]));
    _ptr_2[1] = (_ptr_2[1] + (((float4)(_ptr_5[5])) * _ptr_7[0]));
    _ptr_2[2] = (_ptr_2[2] + (((float4)(_ptr_5[9])) * _ptr_7[0]));
    _ptr_2[3] = (_ptr_2[3] + (((float4)(_ptr_5[13])) * _ptr_7[0]));
    _ptr_7[0] = vload4(0, _ptr_4 + ((_ptr_6[0] * 4) + 96));
    _ptr_2[0] = (_ptr_2[0] + (((float4)(_ptr_5[2])) * _ptr_7[0]));
    _ptr_2[1] = (_ptr_2[1] + (((float4)(_ptr_5[6])) * _ptr_7[0]));
    _ptr_2[2] = (_ptr_2[2] + (((float4)(_ptr_5[10])) * _ptr_7[0]));
    _ptr_2[3] = (_ptr_2[3] + (((float4)(_ptr_5[14])) * _ptr_7[0]));
    _ptr_7[0] = vload4(0, _ptr_4 + ((_ptr_6[0] * 4) + 144));
    _ptr_2[0] = (_ptr_2[0] + (((float4)(_ptr_5[3])) * _ptr_7[0]));
    _ptr_2[1] = (_ptr_2[1] + (((float4)(_ptr_5[7])) * _ptr_7[0]));
    _ptr_2[2] = (_ptr_2[2] + (((float4)(_ptr_5[11])) * _ptr_7[0]));
    _ptr_2[3] = (_ptr_2[3] + (((float4)(_ptr_5[15])) * _ptr_7[0]));
    _ptr_1[0] = (_ptr_1[0] + 1);
  }
  _ptr[3] = ((((((convert_int((convert_uint(min((int)(((((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 255) >> 6) + 1), (int)2))))) * 28) + (min((int)(((((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 255) >> 6) + 1), (int)2) * 12)) - (min((int)((((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 255) >> 6), (int)2) * 12)) - ((convert_int((convert_uint(min((int)((((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 255) >> 6), (int)2))))) * 28)) - 12);
  _ptr_1[0] = (_ptr_1[0] + _ptr[3]);
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_4[(((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 255)] = (convert_float((((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 255)));
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_8[0] = (convert_int(_ptr_4[(((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 255)]));
  barrier(CLK_LOCAL_MEM_FENCE);
  vstore4(_ptr_2[0], 0, _ptr_4 + ((_ptr_8[0] & 255) * 4));
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_9[0] = 0.000000e+00f;
  for (int v_3 = 0; v_3 < 4; ++v_3) {
    _ptr_9[0] = (_ptr_9[0] + _ptr_4[(((v_3 * 256) + (((_ptr_8[0] & 255) & 63) * 4)) + ((_ptr_8[0] & 255) >> 6))]);
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  vstore4(_ptr_2[1], 0, _ptr_4 + ((_ptr_8[0] & 255) * 4));
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_9[1] = 0.000000e+00f;
  for (int v_4 = 0; v_4 < 4; ++v_4) {
    _ptr_9[1] = (_ptr_9[1] + _ptr_4[(((v_4 * 256) + (((_ptr_8[0] & 255) & 63) * 4)) + ((_ptr_8[0] & 255) >> 6))]);
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  vstore4(_ptr_2[2], 0, _ptr_4 + ((_ptr_8[0] & 255) * 4));
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_9[2] = 0.000000e+00f;
  for (int v_5 = 0; v_5 < 4; ++v_5) {
    _ptr_9[2] = (_ptr_9[2] + _ptr_4[(((v_5 * 256) + (((_ptr_8[0] & 255) & 63) * 4)) + ((_ptr_8[0] & 255) >> 6))]);
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  vstore4(_ptr_2[3], 0, _ptr_4 + ((_ptr_8[0] & 255) * 4));
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_9[3] = 0.000000e+00f;
  for (int v_6 = 0; v_6 < 4; ++v_6) {
    _ptr_9[3] = (_ptr_9[3] + _ptr_4[(((v_6 * 256) + (((_ptr_8[0] & 255) & 63) * 4)) + ((_ptr_8[0] & 255) >> 6))]);
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_4[((((_ptr_8[0] & 255) & 63) * 16) + ((_ptr_8[0] & 255) >> 6))] = _ptr_9[0];
  _ptr_4[(((((_ptr_8[0] & 255) & 63) * 16) + ((_ptr_8[0] & 255) >> 6)) + 4)] = _ptr_9[1];
  _ptr_4[(((((_ptr_8[0] & 255) & 63) * 16) + ((_ptr_8[0] & 255) >> 6)) + 8)] = _ptr_9[2];
  _ptr_4[(((((_ptr_8[0] & 255) & 63) * 16) + ((_ptr_8[0] & 255) >> 6)) + 12)] = _ptr_9[3];
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_10[0] = ((_ptr_8[0] - (((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 255)) & 1);
  #pragma unroll 1
  while (1) {
    if (!((_ptr_10[0] < 1))) { break; }
    vstore4((convert_half4(vload4(0, _ptr_4 + ((((_ptr_10[0] & 1) * 16) + (((_ptr_8[0] & 255) & 63) * 16)) + (((_ptr_8[0] & 255) >> 6) * 4))))), 0, conv2d_scale_ptr + (((((((convert_int(((convert_uint(min((int)((_ptr_8[0] & 255) & 63), (int)15))) >> (uint)1))) * 256) + ((_ptr_10[0] & 1) * 128)) + ((convert_int(((convert_uint(min((int)((_ptr_8[0] & 255) & 63), (int)15))) & (uint)1))) * 128)) + (((_ptr_8[0] & 255) >> 6) * 32)) + ((convert_int(get_group_id(1))) * 4)) + (((_ptr_8[0] - (((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 255)) & 1) * 4)));
    _ptr_10[0] = (_ptr_10[0] + 1);
  }
}

